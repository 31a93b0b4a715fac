#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Weight-only methods on language models, through the service: perplexity, divergence from the original and how often the
likeliest token is the same, on text that did not calibrate.

Each model's text is cut into documents of at most 512 tokens; the first 128 calibrate, the others judge. "gptq plain" is
the reference algorithm: no act-order, min-max grids, no coordinate descent, no compensation. All grids are asymmetric unless said.

  ./dev bench language [MODEL…]      MODEL: stories (ours), tinystories (shared data)
"""
import os
import sys
import tempfile

from models import TOP, machine, support

PLAIN = ["--method", "gptq", "--act-order", "off", "--scale-search", "min_max", "--descent-passes", "0", "--no-compensate"]
ASYMMETRIC = ["--symmetry", "asymmetric"]
METHODS = [
    ("rtn min-max", ["--method", "rtn", "--scale-search", "min_max", *ASYMMETRIC], True),
    ("rtn", ["--method", "rtn", *ASYMMETRIC], True),
    ("gptq plain", [*PLAIN, *ASYMMETRIC], True),
    ("gptq", ["--method", "gptq", *ASYMMETRIC], True),
    ("gptq without compensation", ["--method", "gptq", "--no-compensate", *ASYMMETRIC], True),
    ("gptq symmetric", ["--method", "gptq"], True),
    ("awq", ["--method", "awq"], True),
    ("awq + gptq", ["--method", "awq", "--then-gptq"], True),
    ("hqq", ["--method", "hqq"], True),
    ("nf4", ["--method", "nf4"], False),
]
GRIDS = [(4, 128), (4, 32), (3, 128), (3, 32)]


def cases(names):
    stories = TOP / "examples" / "stories"
    found = {"stories": (stories / "model", stories / "calibration", stories / "evaluation")}
    shared = support.shared_data()
    if shared is not None:
        text = shared / "datasets" / "tinystories.txt"
        found["tinystories"] = (shared / "models" / "tinystories-656k", text, text)
    for name in names:
        if name not in found:
            sys.exit(f"bench: no model '{name}'; there are: {', '.join(found)}")
    return {n: c for n, c in found.items() if not names or n in names}


def measure(service, name, model, calibration, evaluation, flags, bits, group):
    grid = ["--bits", bits, "--group-size", group] if bits else []
    onnx = ["--format", "onnx"]  # holds every grid
    job = service.ok("job", "submit", "--kind", "quantize", "--model", model, *flags, *grid, *onnx, "--calibration", calibration,
                     "--evaluation", evaluation, "--latency-runs", "-1", "--watch", timeout=1800)
    report = service.ok("job", "report", job["id"], "--format", "json")
    value = {m["name"]: m for m in report["metrics"]}
    kl, ppl, same = value["kl_divergence"], value["perplexity"], value["same_top"]
    error = (kl["high"] - kl["quantized"]) / 1.96
    seconds = sum(p["seconds"] for p in report["phases"] if p["name"] in ("calibrate", "quantize"))
    return ppl["original"], ppl["quantized"], kl["quantized"], error, same["quantized"], report["size"]["bits_per_weight"], seconds


def main():
    print(f"Machine: {machine()}\n")
    print("| model | bits, group | method | perplexity | KL divergence | same top, % | bits per weight | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    os.environ.setdefault("QUANT_BIN", str(TOP / "build" / "release" / "bin"))
    with tempfile.TemporaryDirectory(), support.Service(workers=1) as service:
        for name, (folder, calibration, evaluation) in cases(sys.argv[1:]).items():
            model = service.ok("model", "upload", folder)["id"]
            learn = service.ok("dataset", "upload", calibration)["id"]
            judge = learn if evaluation == calibration else service.ok("dataset", "upload", evaluation)["id"]
            shown = False
            for bits, group in GRIDS:
                for method, flags, has_grid in METHODS:
                    if not has_grid and (bits, group) != GRIDS[0]:
                        continue
                    fp, ppl, kl, error, same, stored, seconds = measure(
                        service, name, model, learn, judge, flags, bits if has_grid else 0, group)
                    if not shown:
                        print(f"| {name} | | original | {fp:.3f} | 0 | 100 | | |", flush=True)
                        shown = True
                    grid = f"{bits}, {group}" if has_grid else "4, 64"
                    print(f"| {name} | {grid} | {method} | {ppl:.3f} | {kl:.4f} ± {error:.4f} | {same:.2f} | {stored:.2f} | "
                          f"{seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
