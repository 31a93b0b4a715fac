# SPDX-License-Identifier: Apache-2.0
"""Small jobs for a long time: do quantd and its worker keep their memory and descriptors?

  ./dev bench soak [--minutes 5] [--jobs-per-second 1] [--out FILE]

Uploads, submits, watches, downloads and deletes at a steady pace, and samples resident memory and open descriptors of both
processes every few seconds. After a warm-up of a fifth of the time (at most ten minutes) a straight line is fitted to each
series; the error of its slope counts how much neighbouring samples resemble each other. Fails when a slope is beyond its
bound for certain: slope - 2 errors > bound. Ends by itself; the result is also written to FILE as JSON.
"""
import argparse
import json
import math
import os
import pathlib
import shutil
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests" / "support"))
from service import EXAMPLE, Service  # noqa: E402

INTERVAL = 5.0  # seconds between samples
BOUNDS = {"rss_bytes": 8 << 20, "descriptors": 2.0}  # per hour
LEAST_GROWTH = {"rss_bytes": 3 << 20, "descriptors": 2.0}  # in all: what a short run may grow, whose slope says little


def sample(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    rss = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS"))
    return {"rss_bytes": rss, "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}


def fit(times, values):
    """(slope, its standard error) per second, by least squares. Residuals of neighbours that resemble each other (lag-1
    correlation r) leave fewer independent samples: n (1 - r) / (1 + r)."""
    n = len(times)
    mean_t, mean_v = sum(times) / n, sum(values) / n
    spread = sum((t - mean_t) ** 2 for t in times)
    slope = sum((t - mean_t) * (v - mean_v) for t, v in zip(times, values)) / spread
    rest = [v - mean_v - slope * (t - mean_t) for t, v in zip(times, values)]
    square = sum(r * r for r in rest)
    if square == 0:
        return slope, 0.0
    r = max(0.0, min(0.99, sum(a * b for a, b in zip(rest, rest[1:])) / square))
    independent = max(3.0, n * (1 - r) / (1 + r))
    return slope, math.sqrt(square / n / (independent - 2) * n / spread)


def judge(series, warm_up):
    """{"quantd rss_bytes": {first, last, slope_per_hour, error_per_hour, bound_per_hour, ok}, …}"""
    verdicts = {}
    for name, samples in series.items():
        kept = [s for s in samples if s["seconds"] >= warm_up]
        for what in BOUNDS:
            hours = (kept[-1]["seconds"] - kept[0]["seconds"]) / 3600
            bound = max(BOUNDS[what], LEAST_GROWTH[what] / hours)
            slope, error = (3600 * x for x in fit([s["seconds"] for s in kept], [s[what] for s in kept]))
            verdicts[f"{name} {what}"] = {
                "first": kept[0][what], "last": kept[-1][what], "largest": max(s[what] for s in kept),
                "slope_per_hour": slope, "error_per_hour": error, "bound_per_hour": bound,
                "ok": slope - 2 * error <= bound}
    return verdicts


class Load:
    """One turn of what users do."""

    def __init__(self, service):
        self.service, self.turns, self.failed = service, 0, 0
        self.model = service.upload("model", EXAMPLE / "model.onnx")
        self.data = service.upload("dataset", EXAMPLE / "calibration")
        self.flags = ["--no-cache"] if "--no-cache" in service.quantctl("job", "submit", "--help").out else []

    def turn(self):
        service, folder = self.service, self.service.folder / "download"
        job = service.ok("job", "submit", "--model", self.model, "--method", ("dynamic", "static")[self.turns % 2],
                         *(["--calibration", self.data, "--calibration-samples", "8"] if self.turns % 2 else []),
                         "--latency-runs", "-1", "--evaluation-samples", "4", *self.flags)["id"]
        self.turns += 1
        if service.quantctl("job", "watch", job).code != 0:
            self.failed += 1
            return
        result = service.job(job)["result_model_id"]
        service.ok("model", "download", result, folder)
        shutil.rmtree(folder)
        service.report(job)
        # Old jobs and models go, so that what is kept does not grow by itself.
        service.ok("job", "delete", job)
        service.ok("model", "delete", result)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--jobs-per-second", type=float, default=1)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    seconds = options.minutes * 60
    warm_up = min(600.0, seconds / 5)
    with Service(workers=1, worker_flags=["--threads", "1"]) as service:
        load, series = Load(service), {"quantd": [], "worker": []}
        began = next_sample = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            if now >= next_sample:
                next_sample += INTERVAL
                for name, process in (("quantd", service.quantd), ("worker", service.workers[0])):
                    series[name].append({"seconds": now - began, **sample(process.pid)})
            begin_turn = now
            load.turn()
            time.sleep(max(0.0, begin_turn + 1 / options.jobs_per_second - time.monotonic()))
        verdicts = judge(series, warm_up)
    print(f"{options.minutes:g} minutes, {load.turns} jobs, {load.failed} failed; fitted after {warm_up:.0f} s")
    for name, v in verdicts.items():
        scale, unit = (1 / 2**20, "MiB") if "bytes" in name else (1, "")
        print(f"  {name:22} {v['first'] * scale:8.1f} -> {v['last'] * scale:8.1f} {unit:3}  slope "
              f"{v['slope_per_hour'] * scale:+8.2f} +- {v['error_per_hour'] * scale:.2f} an hour (bound "
              f"{v['bound_per_hour'] * scale:g}){'' if v['ok'] else '  BEYOND'}")
    if options.out:
        options.out.write_text(json.dumps({"minutes": options.minutes, "jobs": load.turns, "failed": load.failed,
                                           "verdicts": verdicts, "series": series}, indent=1) + "\n")
    return 0 if load.failed == 0 and all(v["ok"] for v in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
