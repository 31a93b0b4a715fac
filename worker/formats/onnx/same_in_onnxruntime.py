#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that pairs of ONNX files give the same outputs in ONNX Runtime, on random inputs and without optimisation.

  same_in_onnxruntime.py ORIGINAL EXPORTED [ORIGINAL EXPORTED ...]

ORIGINAL may be "-": EXPORTED must then only load and run. Prints a line per pair; exit status 1 if one differs.
"""
import sys

import numpy as np
import onnxruntime

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
         "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}
# Dynamic height and width large enough for any pooling and padding of the models tried.
DYNAMIC = 32


def session(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(run):
    random = np.random.default_rng(1)
    out = {}
    for i in run.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else (1 if axis == 0 else DYNAMIC) for axis, d in enumerate(i.shape)]
        out[i.name] = random.uniform(-1, 1, shape).astype(TYPES[i.type])
    return out


def same(original, exported):
    ours = session(exported)
    inputs = feeds(ours)
    answers = ours.run(None, inputs)
    if original == "-":
        return True, "runs"
    theirs = session(original)
    if [o.name for o in theirs.get_outputs()] != [o.name for o in ours.get_outputs()]:
        return False, "outputs have other names"
    if [(i.name, i.type, i.shape) for i in theirs.get_inputs()] != [(i.name, i.type, i.shape) for i in ours.get_inputs()]:
        return False, "inputs differ"
    worst = 0.0
    limit = 1e-5
    for want, got in zip(theirs.run(None, inputs), answers):
        if want.shape != got.shape:
            return False, f"shape {got.shape}, not {want.shape}"
        if want.dtype == np.float16:
            limit = 2e-3  # two units of an 11-bit mantissa: another operator set may mean another kernel
        want, got = want.astype(np.float64), got.astype(np.float64)
        worst = max(worst, float(np.max(np.abs(want - got), initial=0.0) / (1e-6 + np.max(np.abs(want), initial=0.0))))
    return worst <= limit, f"largest difference {worst:.3g} of the largest value"


def main(arguments):
    if len(arguments) < 2 or len(arguments) % 2:
        print(__doc__, file=sys.stderr)
        return 2
    failed = False
    for original, exported in zip(arguments[::2], arguments[1::2]):
        try:
            good, text = same(original, exported)
        except Exception as error:  # of ONNX Runtime, which has no common base class
            good, text = False, str(error)
        failed |= not good
        print("ok " if good else "BAD", exported.rsplit("/", 1)[-1], text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
