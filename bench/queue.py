#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The queue under load on each store (bench/queue.cc), and what one fsync costs on the disk below it."""
import os
import subprocess
import sys
import tempfile
import time


def fsync_ms(folder: str) -> float:
    """Median of 200 appends of 4 KiB with fdatasync."""
    times = []
    with open(os.path.join(folder, "fsync"), "wb", buffering=0) as f:
        for _ in range(200):
            start = time.monotonic()
            f.write(bytes(4096))
            os.fdatasync(f.fileno())
            times.append(time.monotonic() - start)
    return sorted(times)[100] * 1e3


def main() -> int:
    program = os.path.join(os.environ["QUANT_BIN"], "queue_bench")
    with tempfile.TemporaryDirectory() as folder:
        print(f"one append and fdatasync: {fsync_ms(folder):.2f} ms\n\nSQLite:")
        status = subprocess.call([program, "sqlite", folder], stdout=sys.stdout)
    print("\nPostgreSQL:", flush=True)
    return status or subprocess.call([program, "postgres"])


if __name__ == "__main__":
    sys.exit(main())
