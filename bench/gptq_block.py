#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GPTQ on one block of TinyLlama's shape, beside a straightforward implementation in PyTorch.

Seven linears (hidden 2048, intermediate 5632, 32 heads, 4 of them for keys and values), 16,384 tokens, 4 bits, groups of
128. Inputs have common factors and channels of log-normal magnitude, as hidden states have. The reference is written here
from the paper (Frantar et al. 2023, algorithm 1): one Hessian per linear layer from batches of 2048 tokens, the inverse
by Cholesky factors, blocks of 128 columns, asymmetric min-max grids. Both run one after the other on the same files with
the same number of threads. The losses are tr(D H D^T) with the reference's Hessian, for both, divided by tr(W H W^T).

  ./dev --with peers bench gptq_block [--threads N] [--tokens N] [--plain]
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

try:
    import torch
except ImportError:
    sys.exit("gptq_block: PyTorch is missing; run ./dev --with peers bench gptq_block")

HIDDEN, INTERMEDIATE, KV = 2048, 5632, 256
BLOCK, BITS, GROUP, DAMP, BATCH = 128, 4, 128, 0.01, 2048
LAYERS = [  # name, outputs, inputs, input tensor
    ("q_proj", HIDDEN, HIDDEN, "attention_in"),
    ("k_proj", KV, HIDDEN, "attention_in"),
    ("v_proj", KV, HIDDEN, "attention_in"),
    ("o_proj", HIDDEN, HIDDEN, "attention_out"),
    ("gate_proj", INTERMEDIATE, HIDDEN, "mlp_in"),
    ("up_proj", INTERMEDIATE, HIDDEN, "mlp_in"),
    ("down_proj", HIDDEN, INTERMEDIATE, "mlp_hidden"),
]


def make_input(tokens, channels, generator):
    """Channels / 8 common factors, noise, and channel magnitudes exp(0.8 normal)."""
    factors = channels // 8
    mix = torch.randn(factors, channels, generator=generator) / math.sqrt(factors)
    x = torch.randn(tokens, factors, generator=generator) @ mix + 0.3 * torch.randn(tokens, channels, generator=generator)
    return x * torch.exp(0.8 * torch.randn(channels, generator=generator))


def make_weights(rows, cols, generator):
    return 0.02 * torch.randn(rows, cols, generator=generator) / torch.sqrt(0.2 + 0.8 * torch.rand(rows, cols, generator=generator))


def hessian_of(x):
    """Running mean of 2 x x^T over batches."""
    h = torch.zeros(x.shape[1], x.shape[1])
    seen = 0
    for batch in x.split(BATCH):
        m = batch.shape[0]
        h *= seen / (seen + m)
        seen += m
        scaled = math.sqrt(2 / seen) * batch.t()
        h += scaled @ scaled.t()
    return h


def quantize(weights, h):
    """Algorithm 1 of the paper; the dequantized weights."""
    w = weights.clone()
    h = h.clone()
    columns = w.shape[1]
    dead = torch.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h.diagonal().add_(DAMP * torch.mean(torch.diag(h)))
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    top = 2 ** BITS - 1
    out = torch.zeros_like(w)
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        block = w[:, begin:end].clone()
        errors = torch.zeros_like(block)
        part = factor[begin:end, begin:end]
        for i in range(end - begin):
            if (begin + i) % GROUP == 0:
                group = w[:, begin + i:begin + i + GROUP]
                low = torch.clamp(group.min(1).values, max=0)
                high = torch.clamp(group.max(1).values, min=0)
                scale = (high - low) / top
                zero = torch.round(-low / scale)
            column = block[:, i]
            value = scale * (torch.clamp(torch.round(column / scale) + zero, 0, top) - zero)
            out[:, begin + i] = value
            error = (column - value) / part[i, i]
            block[:, i:] -= error.unsqueeze(1) @ part[i, i:].unsqueeze(0)
            errors[:, i] = error
        w[:, end:] -= errors @ factor[begin:end, end:]
    return out


def load(folder, name, rows, cols):
    return torch.from_file(str(folder / f"{name}.f32"), size=rows * cols, dtype=torch.float32).view(rows, cols)


def form(d, h):
    return float(((d @ h) * d).sum(dtype=torch.float64))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--plain", action="store_true", help="our code with the reference's settings")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(1)
    program = pathlib.Path(os.environ.get("QUANT_BIN", "build/release/bin")) / "gptq_block"
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work)
        lines = []
        for name, rows, cols, source in LAYERS:
            if not (folder / f"{source}.f32").exists():
                make_input(args.tokens, cols, generator).numpy().tofile(folder / f"{source}.f32")
            make_weights(rows, cols, generator).numpy().tofile(folder / f"{name}.f32")
            lines.append(f"{name} {rows} {cols} {source} {args.tokens}\n")
        (folder / "layers.txt").write_text("".join(lines))
        command = [str(program), str(folder), "--threads", str(args.threads), "--bits", str(BITS), "--group-size", str(GROUP)]
        done = subprocess.run(command + (["--plain"] if args.plain else []), capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"gptq_block: {done.stderr}")
        ours = json.loads(done.stdout)
        print(f"{'':<10} {'reference':>22} {'quantd':>12}   relative loss")
        print(f"{'layer':<10} {'hessian s':>11}{'sweep s':>11} {'sweep s':>12} {'reference':>12} {'quantd':>11}")
        total = [0.0, 0.0]
        for name, rows, cols, source in LAYERS:
            x = load(folder, source, args.tokens, cols)
            w = load(folder, name, rows, cols)
            start = time.perf_counter()
            h = hessian_of(x)
            middle = time.perf_counter()
            q = quantize(w, h)
            times = middle - start, time.perf_counter() - middle
            total = [total[0] + times[0], total[1] + times[1]]
            whole = form(w, h)
            mine = form(load(folder, f"{name}.out", rows, cols) - w, h) / whole
            print(f"{name:<10} {times[0]:11.2f}{times[1]:11.2f} {ours['layers'][name]['sweep_s']:12.2f} "
                  f"{form(q - w, h) / whole:12.6f} {mine:11.6f}", flush=True)
    reference, quantd = sum(total), ours["hessian_s"] + ours["sweep_s"]
    print(f"\nreference: Hessians {total[0]:.2f} s, sweeps {total[1]:.2f} s, together {reference:.2f} s")
    print(f"quantd:    Hessians {ours['hessian_s']:.2f} s, sweeps {ours['sweep_s']:.2f} s, together {quantd:.2f} s, "
          f"{reference / quantd:.1f} times as fast ({args.threads} threads)")


if __name__ == "__main__":
    main()
