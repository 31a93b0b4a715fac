#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Static INT8 accuracy and size per observer, through the service, beside ONNX Runtime's own quantizer.

Each model is calibrated on the first samples of its dataset and judged on the others; deltas are points of top-1 with
the paired 95 % interval. "in ORT" is the exported file's top-1 in ONNX Runtime on the same samples.

  ./dev bench accuracy [MODEL…]
"""
import json
import os
import subprocess
import sys
import tempfile

from models import TOP, cases, machine, support

OBSERVERS = ["min_max", "moving_average", "percentile", "histogram_mse", "entropy"]
PEER = TOP / "bench" / "peers" / "onnxruntime_run.py"


def peer(*args):
    done = subprocess.run([sys.executable, str(PEER), *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"onnxruntime_run.py {args[0]}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def measure(service, case, work):
    folder = case.folder(work)
    model = service.ok("model", "upload", case.model)["id"]
    calibration = service.ok("dataset", "upload", folder)["id"]
    separate = case.evaluation is not None
    evaluation = service.ok("dataset", "upload", case.evaluation)["id"] if separate else calibration
    judged, skip = (case.evaluation, 0) if separate else (folder, case.samples)
    for observer in OBSERVERS:
        job = service.ok("job", "submit", "--kind", "quantize", "--model", model, "--method", "static", "--calibration",
                         calibration, "--evaluation", evaluation, "--observer", observer, "--calibration-samples",
                         case.samples, "--evaluation-skip", skip, "--latency-runs", 20, "--watch", timeout=1800)
        report = service.ok("job", "report", job["id"], "--format", "json")
        out = f"{work}/{case.name}-{observer}"
        service.ok("model", "download", job["result_model_id"], out)
        top1 = next(m for m in report["metrics"] if m["name"] == "top1")
        in_ort = peer("accuracy", f"{out}/{case.model.name}", judged, "--skip", skip)["top1"]
        ratio = report["size"]["quantized_bytes"] / report["size"]["original_bytes"]
        print(f"| {case.name} | quantd {observer} | {top1['original']:.2f} | {top1['quantized']:.2f} | {top1['delta']:+.2f} "
              f"[{top1['low']:+.2f}, {top1['high']:+.2f}] | {in_ort:.2f} | {100 * ratio:.1f} % | {top1['samples']} |", flush=True)
    original = peer("accuracy", case.model, judged, "--skip", skip)["top1"]
    for method in ("minmax", "entropy", "percentile"):
        out = f"{work}/{case.name}-ort-{method}.onnx"
        try:
            peer("quantize", case.model, out, "--calibration", folder, "--samples", case.samples, "--per-channel",
                 "--method", method)
        except RuntimeError as error:  # its quantizer fails on some models (mnist-8: a bias of rank 2)
            print(f"{case.name}: onnxruntime.quantization {method} failed: {error}", file=sys.stderr)
            continue
        top1 = peer("accuracy", out, judged, "--skip", skip)
        ratio = os.path.getsize(out) / os.path.getsize(case.model)
        print(f"| {case.name} | onnxruntime {method} | {original:.2f} | {top1['top1']:.2f} | {top1['top1'] - original:+.2f} | "
              f"{top1['top1']:.2f} | {100 * ratio:.1f} % | {top1['samples']} |", flush=True)


def main():
    print(f"Machine: {machine()}\n")
    print("| model | observer | fp32 top-1 | INT8 top-1 | delta [95 %] | in ORT | size | samples |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work, support.Service(workers=1) as service:
        for case in cases(sys.argv[1:]):
            measure(service, case, work)


if __name__ == "__main__":
    main()
