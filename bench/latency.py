#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Latency at batch 1: our runtime against ONNX Runtime on the same files, fp32 and INT8, in alternating rounds.

The INT8 files are our own export (uint8 activations, int8 weights per channel) and ONNX Runtime's (minmax); each runtime
runs its own, and ONNX Runtime runs ours too. A figure is the median over rounds of the rounds' medians; a round times
about one second of runs of each, after a warm-up, so that a change of the machine's speed reaches all.

  ./dev bench latency [MODEL…]
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile

from models import TOP, cases, machine, support

PEER = TOP / "bench" / "peers" / "onnxruntime_run.py"
BENCH = TOP / "build" / "release" / "bin" / "latency_bench"
ROUNDS = 5
THREADS = 2


def run(args):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{args[1] if len(args) > 1 else args[0]}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def ours(model, int8):
    result = run([BENCH, model, "--int8", int8, "--threads", THREADS, "--batch", 1, "--seconds", 1])
    return result["fp32"]["p50_ms"], result["int8"]["p50_ms"]


def onnxruntime(model):
    return run([sys.executable, PEER, "latency", model, "--threads", THREADS, "--batch", 1, "--seconds", 1])["p50_ms"]


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
    table = {"quantd fp32": [], "quantd int8": [], "ort fp32": [], "ort int8": [], "ort on our int8": []}
    for _ in range(ROUNDS):
        fp32, quantized = ours(case.model, int8)
        table["quantd fp32"].append(fp32)
        table["quantd int8"].append(quantized)
        table["ort fp32"].append(onnxruntime(case.model))
        table["ort int8"].append(onnxruntime(ort_int8) if ort_int8 else float("nan"))
        table["ort on our int8"].append(onnxruntime(int8))
    m = {k: statistics.median(v) for k, v in table.items()}
    print(f"| {case.name} | " + " | ".join(f"{m[k]:.3f}" for k in table) +
          f" | {m['quantd fp32'] / m['quantd int8']:.2f}x | {m['ort fp32'] / m['quantd fp32']:.2f}x | "
          f"{m['ort int8'] / m['quantd int8']:.2f}x |", flush=True)


def main():
    if not BENCH.exists():
        sys.exit("build/release has no latency_bench: run it as ./dev bench latency")
    os.environ.setdefault("QUANT_BIN", str(BENCH.parent))
    print(f"Machine: {machine()}; {THREADS} threads, batch 1, {ROUNDS} alternating rounds, median of p50 in ms\n")
    print("| model | quantd fp32 | quantd int8 | ORT fp32 | ORT int8 | ORT on our int8 | our int8 speed-up | fp32 vs ORT | int8 vs ORT |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work, support.Service(workers=1) as service:
        for case in cases(sys.argv[1:]):
            measure(service, case, work)


if __name__ == "__main__":
    main()
