#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Uploads and downloads through a real quantd on loopback, in MB/s, one large file and several at once, beside what SHA-256
(one thread) and the disk do in the same rounds (bench/transfer.cc). Medians over the rounds.

  ./dev bench transfer [--mebibytes 256] [--files 8] [--rounds 5] [--s3]

--s3: quantd keeps its blobs in OpenStack Swift, on the same machine.
"""
import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from models import TOP, machine

sys.path.insert(0, str(TOP / "tests" / "support"))
BIN = pathlib.Path(os.environ.get("QUANT_BIN", TOP / "build" / "release" / "bin"))
TARGET = 0.6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--s3", action="store_true")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quant-transfer.")))
        flags = []
        if args.s3:
            from swift_server import SwiftServer
            swift = stack.enter_context(SwiftServer())
            (folder / "credentials").write_text(f"aws_access_key_id={swift.access_key}\n"
                                                f"aws_secret_access_key={swift.secret_key}\n")
            flags = ["--blobs", f"s3://{swift.bucket}/bench?endpoint={swift.endpoint}&credentials={folder}/credentials"]
        quantd = subprocess.Popen([BIN / "quantd", "--listen", "127.0.0.1:0", "--data", folder / "data", *flags],
                                  stdout=subprocess.PIPE, stderr=open(folder / "log", "wb"), text=True)
        stack.callback(quantd.wait)
        stack.callback(quantd.terminate)
        server = quantd.stdout.readline().split()[-1]
        (folder / "files").mkdir()
        done = subprocess.run([BIN / "transfer_bench", server, folder / "files", str(args.mebibytes), str(args.files),
                               str(args.rounds)], check=True, capture_output=True, text=True)
        speeds = {name: statistics.median(values) for name, values in json.loads(done.stdout).items()}
    print(f"{machine()}; {args.mebibytes} MiB, as one file and as {args.files}, {args.rounds} rounds\n")
    print("| what | MB/s | of the slower of SHA-256 and disk |\n|---|---|---|")
    print(f"| SHA-256 | {speeds['sha256']:.0f} | |\n| disk, write with fsync | {speeds['disk_write']:.0f} | |")
    print(f"| page cache, read | {speeds['disk_read']:.0f} | |")
    slower = min(speeds["sha256"], speeds["disk_write"])  # a download is written and hashed too
    worst = 1.0
    for name in ("upload_one", "upload_many", "download_one", "download_many"):
        share = speeds[name] / slower
        worst = min(worst, share)
        print(f"| {name.replace('_', ', ')} | {speeds[name]:.0f} | {100 * share:.0f} % |")
    print(f"\ntarget: {100 * TARGET:.0f} %; lowest: {100 * worst:.0f} %")
    return 0 if worst >= TARGET or args.s3 else 1


if __name__ == "__main__":
    sys.exit(main())
