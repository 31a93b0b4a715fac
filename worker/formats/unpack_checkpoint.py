#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Unpacks quantized layers of a checkpoint folder and compares them with float32 files.

  unpack_checkpoint.py FOLDER MODULE=FILE.f32 [MODULE=FILE.f32 ...]

FILE.f32 holds the layer's weights [outputs, inputs] row-major. Formats: gptq, gptq_v2, awq, bitsandbytes,
compressed-tensors; the layouts are those of docs/formats/*.md, independently of the C++ code. Exit status 1 when a
number differs.
"""
import json
import os
import sys

import numpy as np
from safetensors import deserialize

TYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "U8": np.uint8, "I32": np.int32, "I64": np.int64}


def load(folder):
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(folder, name), "rb") as file:
            for key, info in deserialize(file.read()):
                raw = bytes(info["data"])
                if info["dtype"] == "BF16":
                    values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
                else:
                    values = np.frombuffer(raw, TYPES[info["dtype"]])
                tensors[key] = values.reshape(info["shape"])
    return tensors


def bits_of(words, bits, count):
    """Codes from rows of int32 words: a stream of bits, the lowest first."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    stream = stream[:, : count * bits].reshape(words.shape[0], count, bits).astype(np.int64)
    return (stream << np.arange(bits)).sum(axis=-1)


def gptq(t, module, config):
    qweight, qzeros, scales = (t[f"{module}.{p}"] for p in ("qweight", "qzeros", "scales"))
    g_idx = t[module + ".g_idx"]
    inputs, outputs = len(g_idx), qweight.shape[1]
    bits = qweight.shape[0] * 32 // inputs
    codes = bits_of(qweight.T.copy(), bits, inputs)  # [outputs, inputs]
    zeros = bits_of(qzeros, bits, outputs)  # [groups, outputs]
    if config["checkpoint_format"] == "gptq":
        zeros = zeros + 1
    assert config["format"] == config["checkpoint_format"]
    s = scales.astype(np.float32)[g_idx].T
    return s * (codes - zeros[g_idx].T).astype(np.float32)


def awq(t, module, config):
    assert config["version"] == "gemm" and config["zero_point"]
    order = [0, 4, 1, 5, 2, 6, 3, 7]

    def nibbles(words):
        shifts = np.array(order) * 4
        return ((words.view(np.uint32)[:, :, None] >> shifts) & 15).reshape(words.shape[0], -1).astype(np.int64)

    codes, zeros = nibbles(t[module + ".qweight"]), nibbles(t[module + ".qzeros"])
    group = np.arange(codes.shape[0]) // config["group_size"]
    scales = t[module + ".scales"].astype(np.float32)
    return (scales[group] * (codes - zeros[group]).astype(np.float32)).T


def bitsandbytes(t, module, config):
    weight = t[module + ".weight"]
    if config["load_in_8bit"]:
        assert t[module + ".weight_format"].shape == () and t[module + ".weight_format"] == 0
        return weight.astype(np.float32) * (t[module + ".SCB"] / np.float32(127))[:, None]
    kind = config["bnb_4bit_quant_type"]
    state = json.loads(t[f"{module}.weight.quant_state.bitsandbytes__{kind}"].tobytes().decode())
    assert state["quant_type"] == kind
    absmax = t[module + ".weight.absmax"]
    if config["bnb_4bit_use_double_quant"]:
        nested = t[module + ".weight.nested_absmax"][np.arange(len(absmax)) // state["nested_blocksize"]]
        absmax = t[module + ".weight.nested_quant_map"][absmax] * nested + np.float32(state["nested_offset"])
    rows, cols = state["shape"]
    codes = np.stack([weight[:, 0] >> 4, weight[:, 0] & 15], axis=1).reshape(-1)[: rows * cols]
    blocks = np.arange(rows * cols) // state["blocksize"]
    return (t[module + ".weight.quant_map"][codes] * absmax[blocks]).reshape(rows, cols)


def compressed_tensors(t, module, config):
    scales = t[module + ".weight_scale"].astype(np.float32)
    if config["format"] == "int-quantized":
        return t[module + ".weight"].astype(np.float32) * scales
    rows, cols = t[module + ".weight_shape"]
    packed = t[module + ".weight_packed"]
    bits = 4 if packed.shape[1] == -(-cols // 8) and cols > 4 else 8
    if cols <= 4:
        raise SystemExit("too few inputs to tell 4 from 8 bits")
    half = 1 << (bits - 1)
    q = bits_of(packed, bits, cols) - half
    groups = scales.shape[1]
    g_idx = t.get(module + ".weight_g_idx", np.arange(cols) // (cols // groups))
    zeros = np.zeros((rows, groups), np.int64)
    if module + ".weight_zero_point" in t:
        zeros = bits_of(t[module + ".weight_zero_point"].T.copy(), bits, rows).T - half
    return scales[:, g_idx] * (q - zeros[:, g_idx]).astype(np.float32)


METHODS = {"gptq": gptq, "awq": awq, "bitsandbytes": bitsandbytes, "compressed-tensors": compressed_tensors}


def main(arguments):
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    with open(os.path.join(arguments[0], "config.json")) as file:
        config = json.load(file)["quantization_config"]
    tensors = load(arguments[0])
    failed = False
    for argument in arguments[1:]:
        module, file = argument.split("=", 1)
        got = METHODS[config["quant_method"]](tensors, module, config)
        want = np.fromfile(file, np.float32).reshape(got.shape)
        same = got.dtype == np.float32 and np.array_equal(got, want)
        failed |= not same
        print("ok " if same else "BAD", module, got.shape, got.dtype, "" if same else np.max(np.abs(got - want)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
