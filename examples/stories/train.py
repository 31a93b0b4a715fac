#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes everything in this folder: writes the texts, trains tokenizer and model, saves them as Hugging Face does.

  ./dev --with peers shell python3 examples/stories/train.py [OUT_DIR]

OUT_DIR (default: this folder) gets model/ (config.json, model.safetensors in bfloat16, tokenizer.json and the small
files beside it), calibration/ and evaluation/. Two threads, fixed seeds. The training texts are written afresh and not
kept.

The model is a Llama (RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embedding) whose matrices are
multiples of 128 wide, so that every group size of the quantized formats fits.
"""
import argparse
import json
import math
import os
import pathlib
import random
import sys
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import bpe
import write

TRAINING_SEED, CALIBRATION_SEED, EVALUATION_SEED = 1, 2, 3
CALIBRATION_COUNT, EVALUATION_COUNT = 128, 320
TOKENIZER_TEXTS = 8000
VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 1024, 256, 512, 2, 4, 2
EPS, THETA = 1e-6, 10000.0
LENGTH, BATCH = 320, 5  # tokens in a row, rows in a step
PEAK_LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.02
GAIN_SPREAD = 1.0  # of the logarithm of the first gains of RMSNorm


class RmsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self.weight


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        size = HIDDEN // HEADS
        self.q_proj = nn.Linear(HIDDEN, HEADS * size, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * size, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * size, bias=False)
        self.o_proj = nn.Linear(HEADS * size, HIDDEN, bias=False)

    def forward(self, x, cos, sin):
        rows, length, _ = x.shape

        def heads(y):
            return y.view(rows, length, -1, HIDDEN // HEADS).transpose(1, 2)

        def rotate(y):
            first, second = y.chunk(2, -1)
            return y * cos + torch.cat((-second, first), -1) * sin

        q, k, v = rotate(heads(self.q_proj(x))), rotate(heads(self.k_proj(x))), heads(self.v_proj(x))
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, 1) for y in (k, v))
        with torch.autocast("cpu", enabled=False):  # PyTorch's bfloat16 attention is many times slower here
            y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.up_proj = nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.down_proj = nn.Linear(INTERMEDIATE, HIDDEN, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(), RmsNorm()
        self.self_attn, self.mlp = Attention(), Mlp()

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Parameters are named as Hugging Face's, without the leading "model."."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = RmsNorm()
        for name, p in self.named_parameters():
            if p.dim() == 1 and name != "norm.weight":
                # A few channels much stronger than the rest, as large language models have them and small ones do not
                # grow by themselves: what makes activation-aware methods differ from rounding.
                p.data = torch.randn(HIDDEN).mul(GAIN_SPREAD).exp() / math.exp(GAIN_SPREAD**2)  # mean square 1
            elif p.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, 0, 0.02 if name.startswith("embed") else p.shape[1] ** -0.5 / (
                    math.sqrt(2 * LAYERS) if residual else 1))

    def forward(self, ids):
        half = HIDDEN // HEADS // 2
        angles = torch.arange(ids.shape[1])[:, None] * THETA ** (-torch.arange(half) / half)
        cos, sin = (torch.cat((f(angles),) * 2, -1) for f in (torch.cos, torch.sin))
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)


def rows_of(tokenizer, rng):
    """Rows without end: each begins with a text, texts follow one another until it is full, the rest is dropped."""
    row = []
    while True:
        row += tokenizer.encode(write.text(rng))
        if len(row) >= LENGTH:
            yield row[:LENGTH]
            row = []


def loss_of(model, rows, mixed):
    """`mixed` multiplies matrices in bfloat16, twice as fast on CPUs that have it."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        logits = model(rows)[:, :-1]
    return F.cross_entropy(logits.reshape(-1, VOCABULARY).float(), rows[:, 1:].reshape(-1))


def check_gradients(model, rows):
    """Stops unless bfloat16 products give nearly the gradients of float32 ones."""
    gradients = []
    for mixed in (False, True):
        model.zero_grad()
        loss_of(model, rows, mixed).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad()
    error = ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item()
    if not error < 0.05:  # rounding to 8 bits gives 0.01
        sys.exit(f"bfloat16 and float32 disagree by {error:.2g} in the gradients")


def train(model, tokenizer, steps, log_every=50):
    """AdamW; a short linear warm-up, then a cosine down to nothing. Every row is seen once."""
    warm = steps // 20
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0}],
                                  lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / warm if s < warm else 0.5 * (1 + math.cos(math.pi * (s - warm) / (steps - warm))))
    source = rows_of(tokenizer, random.Random(TRAINING_SEED))
    start, total = time.monotonic(), 0.0
    for step in range(steps):
        rows = torch.tensor([next(source) for _ in range(BATCH)])
        if step == 0:
            check_gradients(model, rows)
        loss = loss_of(model, rows, mixed=True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if (step + 1) % log_every == 0:
            print(f"step {step + 1}/{steps}: loss {total / log_every:.4f}, {time.monotonic() - start:.0f} s", flush=True)
            total = 0.0


def perplexity(model, tokenizer, texts):
    """Each text by itself, begin-of-text first, cut at 512 tokens; every token but the first counts."""
    loss, count = 0.0, 0
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text)[:512]])
            loss += F.cross_entropy(model(ids)[0, :-1], ids[0, 1:], reduction="sum").item()
            count += ids.shape[1] - 1
    return math.exp(loss / count), count


def save(model, tokenizer, folder):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({f"model.{name}": p.detach().to(torch.bfloat16).contiguous() for name, p in model.named_parameters()},
              str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos, "head_dim": HIDDEN // HEADS, "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "max_position_embeddings": 512, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": EPS,
        "rope_scaling": None, "rope_theta": THETA, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer.save(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", default=pathlib.Path(__file__).parent, type=pathlib.Path, metavar="OUT_DIR")
    parser.add_argument("--steps", type=int, default=2000, help="default %(default)s")
    args = parser.parse_args()
    torch.manual_seed(TRAINING_SEED)
    torch.set_num_threads(1)

    tokenizer = bpe.train(write.write(TOKENIZER_TEXTS, TRAINING_SEED), VOCABULARY)
    calibration, evaluation = write.write(CALIBRATION_COUNT, CALIBRATION_SEED), write.write(EVALUATION_COUNT, EVALUATION_SEED)
    for name, texts in (("calibration", calibration), ("evaluation", evaluation)):
        (args.out / name).mkdir(parents=True, exist_ok=True)
        write.save(args.out / name / "stories.txt", texts)
        lengths = [len(tokenizer.encode(t)) for t in texts]
        print(f"{name}: {len(texts)} texts, {sum(lengths)} tokens, the longest {max(lengths)}", flush=True)
    model = Llama()
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    train(model, tokenizer, args.steps)
    for p in model.parameters():  # what is saved is what is measured
        p.data = p.data.to(torch.bfloat16).float()
    save(model, tokenizer, args.out / "model")
    value, count = perplexity(model, tokenizer, evaluation)
    print(f"perplexity {value:.4f} over {count} tokens of evaluation/ (bfloat16 weights, float32 arithmetic)")


if __name__ == "__main__":
    sys.exit(main())
