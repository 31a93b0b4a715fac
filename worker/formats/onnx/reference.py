#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares models as they stand, computed here by definition, with their portable forms in ONNX Runtime.

  reference.py [--tolerance T] ORIGINAL LOWERED [ORIGINAL LOWERED ...]

ORIGINAL may use operators of set 23, com.microsoft MatMulNBits of any block size and quantd MatMulCodebook; NumPy
computes them in float64 from the text of ONNX (docs/Operators.md) and of worker/graph/linear.h. Inputs are random.
Exit status 1 when a largest difference exceeds T (1e-5) times the largest value.
"""
import os
import sys

import numpy as np

# Debian's two packages share one library and register every operator twice, each time with a line on stderr.
kept = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import numpy_helper  # noqa: E402

os.dup2(kept, 2)

DIMS = {"batch": 2, "sequence": 5, "past": 3, "total": 8}
TYPES = {1: np.float32, 7: np.int64, 9: np.bool_}


def array(t):
    if t.data_type == 16:  # bfloat16
        return (np.frombuffer(t.raw_data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(tuple(t.dims))
    return numpy_helper.to_array(t)


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def bits_of(data, bits, count):
    stream = np.unpackbits(data, axis=-1, bitorder="little")[..., : count * bits]
    stream = stream.reshape(*data.shape[:-1], count, bits).astype(np.int64)
    return (stream << np.arange(bits)).sum(-1)


def mat_mul_n_bits(a, x, codes, scales, zeros=None, g_idx=None, bias=None):
    n, k, block, bits = a["N"], a["K"], a["block_size"], a.get("bits", 4)
    blocks = -(-k // block)
    q = bits_of(codes.reshape(n, blocks, -1), bits, block)
    if zeros is None:
        z = np.full((n, blocks), float(1 << (bits - 1)))
    elif zeros.dtype == np.uint8:
        z = bits_of(zeros.reshape(n, -1), bits, blocks)
    else:
        z = zeros.reshape(n, blocks)
    w = ((q - z[..., None]) * scales.astype(np.float64).reshape(n, blocks, 1)).reshape(n, -1)[:, :k]
    y = x @ w.T
    return y if bias is None else y + bias


def mat_mul_codebook(a, x, codes, absmax, table):
    n, k, block = a["N"], a["K"], a["block_size"]
    q = np.stack([codes >> 4, codes & 15], -1).reshape(-1)[: n * k]
    w = table.astype(np.float64)[q] * absmax[np.arange(n * k) // block]
    return x @ w.reshape(n, k).T


def rms_normalization(a, x, scale):
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + a.get("epsilon", 1e-5)) * scale


def rotary_embedding(a, x, cos, sin, ids=None):
    heads = a.get("num_heads", 0)
    x4 = x.reshape(x.shape[0], x.shape[1], heads, -1).swapaxes(1, 2) if x.ndim == 3 else x  # [batch, heads, tokens, size]
    size = x4.shape[-1]
    rotary = a.get("rotary_embedding_dim", 0) or size
    if ids is not None:
        cos, sin = cos[ids], sin[ids]
    y = x4.copy()
    for i in range(rotary // 2):
        p, q = (2 * i, 2 * i + 1) if a.get("interleaved", 0) else (i, i + rotary // 2)
        c, s = cos[:, None, :, i], sin[:, None, :, i]
        y[..., p] = c * x4[..., p] - s * x4[..., q]
        y[..., q] = s * x4[..., p] + c * x4[..., q]
    return y.swapaxes(1, 2).reshape(x.shape) if x.ndim == 3 else y


def attention(a, q, k, v, mask=None, past_k=None, past_v=None):
    flat = q.ndim == 3
    if flat:
        q, k, v = (t.reshape(t.shape[0], t.shape[1], a[h], -1).swapaxes(1, 2)
                   for t, h in ((q, "q_num_heads"), (k, "kv_num_heads"), (v, "kv_num_heads")))
    if past_k is not None:
        k, v = np.concatenate([past_k, k], 2), np.concatenate([past_v, v], 2)
    rep = q.shape[1] // k.shape[1]
    scores = q @ np.repeat(k, rep, 1).swapaxes(2, 3) * a.get("scale", 1 / np.sqrt(q.shape[3]))
    if a.get("softcap", 0):
        scores = a["softcap"] * np.tanh(scores / a["softcap"])
    tokens, keys = scores.shape[2:]
    if a.get("is_causal", 0):
        scores = np.where(np.arange(keys) <= np.arange(tokens)[:, None] + keys - tokens, scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ np.repeat(v, rep, 1)
    return (y.swapaxes(1, 2).reshape(y.shape[0], tokens, -1) if flat else y), k, v


OPERATORS = {
    "MatMulNBits": mat_mul_n_bits,
    "MatMulCodebook": mat_mul_codebook,
    "RMSNormalization": rms_normalization,
    "RotaryEmbedding": rotary_embedding,
    "Attention": attention,
    "Gather": lambda a, x, i: np.take(x, i, a.get("axis", 0)),
    "Cast": lambda a, x: x.astype(np.float64 if a["to"] == 1 else TYPES[a["to"]]),
    "Transpose": lambda a, x: np.transpose(x, a["perm"]),
    "MatMul": lambda a, x, y: x @ y,
    "Add": lambda a, x, y: x + y,
    "Mul": lambda a, x, y: x * y,
    "Sigmoid": lambda a, x: 1 / (1 + np.exp(-x)),
}


def run(model, feeds):
    values = {t.name: array(t) for t in model.graph.initializer}
    values.update({k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feeds.items()})
    for node in model.graph.node:
        inputs = [values[i] if i else None for i in node.input]
        inputs = [i.astype(np.float64) if i is not None and i.dtype == np.float32 else i for i in inputs]
        out = OPERATORS[node.op_type](attributes(node), *inputs)
        out = out if isinstance(out, tuple) else (out,)
        values.update(zip(node.output, out))
    return [values[o.name] for o in model.graph.output]


def random_inputs(model):
    random = np.random.default_rng(1)
    feeds = {}
    for i in model.graph.input:
        shape = [DIMS[d.dim_param] if d.dim_param else d.dim_value for d in i.type.tensor_type.shape.dim]
        kind = i.type.tensor_type.elem_type
        if kind == 7:
            feeds[i.name] = random.integers(0, 7, shape)
        elif kind == 9:
            feeds[i.name] = random.random(shape) < 0.7
            feeds[i.name][..., 0] = True
        else:
            feeds[i.name] = random.normal(0, 1, shape).astype(np.float32)
    return feeds


def compare(original, lowered, tolerance):
    model = onnx.load(original)
    feeds = random_inputs(model)
    want = run(model, feeds)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(lowered, options, providers=["CPUExecutionProvider"])
    got = session.run([o.name for o in model.graph.output], feeds)
    worst = 0.0
    for w, g in zip(want, got):
        if w.shape != g.shape or not np.all(np.isfinite(g)):
            return False, f"shape {g.shape}, not {w.shape}, or not finite"
        worst = max(worst, np.max(np.abs(w - g), initial=0) / np.max(np.abs(w), initial=1e-9))
    return worst <= tolerance, f"largest difference {worst:.3g} of the largest value"


def main(arguments):
    tolerance = 1e-5
    if arguments[:1] == ["--tolerance"]:
        tolerance, arguments = float(arguments[1]), arguments[2:]
    if not arguments or len(arguments) % 2:
        print(__doc__, file=sys.stderr)
        return 2
    failed = False
    for original, lowered in zip(arguments[::2], arguments[1::2]):
        try:
            good, text = compare(original, lowered, tolerance)
        except Exception as error:  # of ONNX Runtime, which has no common base class
            good, text = False, f"{type(error).__name__}: {error}"
        failed |= not good
        print("ok " if good else "BAD", lowered.rsplit("/", 1)[-1], text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
