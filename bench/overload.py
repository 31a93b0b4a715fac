# SPDX-License-Identifier: Apache-2.0
"""More than quantd can do at once: is its memory bounded, and does it answer meanwhile?

  ./dev bench overload [--uploads 200] [--megabytes 8] [--jobs 10000] [--watches 200]

Without workers, so that jobs stay queued: first all uploads at once, each over its own connection; then submits until the
queue is full, and some more, which must be refused with a time to come back; then all watches at once, whose jobs are
cancelled one after the other. In each phase resident memory of quantd is sampled every 50 ms, and another client asks for
the list of jobs every 100 ms. Fails when a call fails otherwise, when a refusal names no time, or beyond the bounds.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests" / "support"))
from service import EXAMPLE, Service  # noqa: E402

MOST_RSS = 1 << 30  # quantd's resource quota for connections alone


class Beside:
    """Samples quantd's memory and descriptors, and the time of a small call, while a phase runs."""

    def __init__(self, service):
        self._service, self._stop, self.rss, self.descriptors, self.calls = service, threading.Event(), 0, 0, []
        self._threads = [threading.Thread(target=self._sample), threading.Thread(target=self._ask)]

    def __enter__(self):
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for t in self._threads:
            t.join()

    def _sample(self):
        pid = self._service.quantd.pid
        while not self._stop.wait(0.05):
            fields = pathlib.Path(f"/proc/{pid}/statm").read_text().split()
            self.rss = max(self.rss, int(fields[1]) * os.sysconf("SC_PAGE_SIZE"))
            self.descriptors = max(self.descriptors, len(os.listdir(f"/proc/{pid}/fd")))

    def _ask(self):
        while not self._stop.wait(0.1):
            begun = time.monotonic()
            self._service.ok("job", "list", "--limit", "1")
            self.calls.append(1000 * (time.monotonic() - begun))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--watches", type=int, default=200)
    options = parser.parse_args()
    program = pathlib.Path(os.environ.get("QUANT_BIN", TOP / "build" / "release" / "bin")) / "overload_bench"
    good = True
    with Service(workers=0, quantd_flags=["--max-jobs", str(options.jobs)]) as service, \
            tempfile.TemporaryDirectory(prefix="quant-overload.") as folder:
        service.upload("model", EXAMPLE / "model.onnx")
        print(f"{'':34} {'calls':>6} {'refused':>8} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8} {'quantd RSS':>11} "
              f"{'fds':>5} {'list p50, p99 ms':>18}")
        for name, *arguments in (
                (f"{options.uploads} uploads of {options.megabytes} MB", "uploads", options.uploads, options.megabytes << 20),
                (f"{options.jobs} submits and 100 more", "submit", 16, options.jobs + 100),
                (f"{options.watches} watches, cancel to word", "watch", options.watches)):
            with Beside(service) as beside:
                done = subprocess.run([program, service.server, folder, *map(str, arguments)], capture_output=True)
            if not done.stdout:
                raise AssertionError(f"{arguments}: {done.stderr.decode()}")
            told, calls = json.loads(done.stdout), sorted(beside.calls) or [0.0]
            print(f"{name:34} {told['count']:6} {told['refused']:8} {told['count'] / told['seconds']:8.1f} "
                  f"{told['p50_ms']:8.1f} {told['p99_ms']:8.1f} {beside.rss / 2**20:7.0f} MiB {beside.descriptors:5} "
                  f"{calls[len(calls) // 2]:8.0f} {calls[int(0.99 * (len(calls) - 1))]:8.0f}", flush=True)
            good = good and done.returncode == 0 and beside.rss <= MOST_RSS and told["refused_without_retry_after"] == 0
            if done.returncode:
                print(done.stderr.decode()[-1000:], file=sys.stderr)
    print("memory stayed below 1 GiB and every refusal named a time" if good else "BEYOND its bounds")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
