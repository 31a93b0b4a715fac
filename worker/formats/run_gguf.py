#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Computes the logits of a GGUF file in NumPy: run_gguf.py FILE OUT.f32 TOKEN...

What llama.cpp does with the architectures llama, qwen2 and qwen3 (src/llama-model.cpp): above all, llama turns pairs of
neighbours in a head by the angle of their position, the others pairs half a head apart.
"""
import sys

import numpy as np
from read_gguf import load


def logits(keys, t, tokens):
    """[tokens, vocabulary] in float64, of what load() in read_gguf.py returns."""
    arch = keys["general.architecture"]
    k = {name[len(arch) + 1 :]: value for name, value in keys.items() if name.startswith(arch + ".")}
    heads, kv_heads, size = k["attention.head_count"], k["attention.head_count_kv"], k["rope.dimension_count"]
    t = {name: value.astype(np.float64) for name, value in t.items()}
    tokens = np.asarray(tokens)
    n = len(tokens)
    eps = k["attention.layer_norm_rms_epsilon"]
    frequencies = k["rope.freq_base"] ** (-np.arange(0, size, 2) / size) / t.get("rope_freqs.weight", 1)
    if k.get("rope.scaling.type") == "linear":
        frequencies = frequencies / k["rope.scaling.factor"]
    angles = np.arange(n)[:, None] * frequencies

    def norm(x, name):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * t[name + ".weight"]

    def linear(x, name):
        return x @ t[name + ".weight"].T + t.get(name + ".bias", 0)

    def turn(x):  # [tokens, heads, size]
        c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
        y = np.empty_like(x)
        first, second = (slice(0, None, 2), slice(1, None, 2)) if arch == "llama" else (slice(size // 2), slice(size // 2, None))
        y[..., first] = x[..., first] * c - x[..., second] * s
        y[..., second] = x[..., second] * c + x[..., first] * s
        return y

    x = t["token_embd.weight"][tokens]
    for i in range(k["block_count"]):
        b = f"blk.{i}."
        h = norm(x, b + "attn_norm")
        q = linear(h, b + "attn_q").reshape(n, heads, size)
        key = linear(h, b + "attn_k").reshape(n, kv_heads, size)
        v = linear(h, b + "attn_v").reshape(n, kv_heads, size)
        if arch == "qwen3":
            q, key = norm(q, b + "attn_q_norm"), norm(key, b + "attn_k_norm")
        q, key = turn(q), np.repeat(turn(key), heads // kv_heads, 1)
        scores = np.einsum("qhd,khd->hqk", q, key) / np.sqrt(size)
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("hqk,khd->qhd", weights, np.repeat(v, heads // kv_heads, 1)).reshape(n, -1)
        x = x + linear(y, b + "attn_output")
        h = norm(x, b + "ffn_norm")
        gate = linear(h, b + "ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, b + "ffn_up"), b + "ffn_down")
    x = norm(x, "output_norm")
    return x @ t.get("output.weight", t["token_embd.weight"]).T


def main(arguments):
    keys, tensors, _ = load(arguments[0])
    logits(keys, tensors, [int(a) for a in arguments[2:]]).astype(np.float32).tofile(arguments[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
