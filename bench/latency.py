#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Latency at batch 1: our runtime against ONNX Runtime on the same files, fp32 and INT8, in one process.

The INT8 files are our own export (uint8 activations, int8 weights per channel) and ONNX Runtime's (minmax); each runtime
runs its own, and ONNX Runtime runs ours too. latency_bench (latency.cc) takes all in turn, in bursts of 0.1 s, so that a
change of the machine's speed reaches all; a figure is the median of five seconds of runs.

  ./dev bench latency [MODEL…]
"""
import json
import os
import subprocess
import sys
import tempfile

from models import TOP, cases, machine, support

PEER = TOP / "bench" / "peers" / "onnxruntime_run.py"
BENCH = TOP / "build" / "release" / "bin" / "latency_bench"
SECONDS = 5
THREADS = 2


def run(args):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{args[1] if len(args) > 1 else args[0]}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def measure(service, case, work):
    folder = case.folder(work)
    model = service.ok("model", "upload", case.model)["id"]
    calibration = service.ok("dataset", "upload", folder)["id"]
    job = service.ok("job", "submit", "--kind", "quantize", "--model", model, "--method", "static", "--calibration",
                     calibration, "--calibration-samples", 32, "--evaluation-samples", 32, "--latency-runs", 10, "--watch",
                     timeout=1800)
    service.ok("model", "download", job["result_model_id"], f"{work}/{case.name}")
    int8 = f"{work}/{case.name}/{case.model.name}"
    ort_int8 = f"{work}/{case.name}-ort.onnx"
    try:
        run([sys.executable, PEER, "quantize", case.model, ort_int8, "--calibration", folder, "--samples", 32, "--per-channel"])
    except RuntimeError as error:  # its quantizer fails on some models (mnist-8: a bias of rank 2)
        print(f"{case.name}: onnxruntime.quantization failed: {error}", file=sys.stderr)
        ort_int8 = None
    peers = [case.model, int8] + ([ort_int8] if ort_int8 else [])
    result = run([BENCH, case.model, "--int8", int8, "--ort", ",".join(str(p) for p in peers), "--threads", THREADS, "--batch", 1,
                  "--seconds", SECONDS])
    p50 = {name: times["p50_ms"] for name, times in result.items() if isinstance(times, dict)}
    m = {"quantd fp32": p50["fp32"], "quantd int8": p50["int8"], "ort fp32": p50[f"ort:{case.model}"],
         "ort int8": p50[f"ort:{ort_int8}"] if ort_int8 else float("nan"), "ort on our int8": p50[f"ort:{int8}"]}
    print(f"| {case.name} | " + " | ".join(f"{v:.3f}" for v in m.values()) +
          f" | {m['quantd fp32'] / m['quantd int8']:.2f}x | {m['ort fp32'] / m['quantd fp32']:.2f}x | "
          f"{m['ort int8'] / m['quantd int8']:.2f}x |", flush=True)


def main():
    if not BENCH.exists():
        sys.exit("build/release has no latency_bench: run it as ./dev bench latency")
    os.environ.setdefault("QUANT_BIN", str(BENCH.parent))
    print(f"Machine: {machine()}; {THREADS} threads, batch 1, one process, alternating bursts, p50 in ms\n")
    print("| model | quantd fp32 | quantd int8 | ORT fp32 | ORT int8 | ORT on our int8 | our int8 speed-up | fp32 vs ORT | int8 vs ORT |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work, support.Service(workers=1) as service:
        for case in cases(sys.argv[1:]):
            measure(service, case, work)


if __name__ == "__main__":
    main()
