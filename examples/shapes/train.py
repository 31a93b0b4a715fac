#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes everything in this folder: renders the pictures, trains the network, exports it as ONNX.

  ./dev --with peers shell python3 examples/shapes/train.py [OUT_DIR]

OUT_DIR (default: this folder) gets model.onnx, calibration/ and evaluation/. One thread, fixed seeds: on one machine
a second run writes the same bytes. The training pictures are rendered afresh and not kept.

The network is small but has what quantization of convolutional networks is about: plain, depthwise and pointwise
convolutions each followed by a BatchNormalization of its own (kept in the export), ReLU and ReLU6 (Clip), MaxPool,
residual Adds with and without an activation behind them, GlobalAveragePool and Gemm.
"""
import argparse
import copy
import math
import os
import pathlib
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Debian 13's oneDNN 3.7.2, which PyTorch uses, packs weights wrong for AVX-512 convolutions whose channels are not a
# multiple of 16 (uxlfoundation/oneDNN issue 3280), and training goes to NaN. Its AVX2 kernels are right;
# check_gradients() makes sure.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"

import numpy as np
import torch
from torch import nn

import render

TRAINING_SEED, CALIBRATION_SEED, EVALUATION_SEED = 1, 2, 3
TRAINING_COUNT, CALIBRATION_COUNT, EVALUATION_COUNT = 14000, 128, 640
BATCH = 32
PEAK_LEARNING_RATE = 0.003
WEIGHT_DECAY = 0.02
OPSET = 13


def conv(inputs, outputs, size, stride=1, groups=1, activation=None):
    """Convolution with "same" padding and no bias, BatchNorm, then the activation if there is one."""
    layers = [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; ReLU after the sum (He et al. 2016)."""

    def __init__(self, channels):
        super().__init__()
        self.first = conv(channels, channels, 3, activation=nn.ReLU)
        self.second = conv(channels, channels, 3)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.second(self.first(x)))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project, with a shortcut where shapes allow; no activation after (Sandler et al. 2018)."""

    def __init__(self, inputs, outputs, expanded, stride=1):
        super().__init__()
        self.shortcut = stride == 1 and inputs == outputs
        self.expand = conv(inputs, expanded, 1, activation=nn.ReLU6)
        self.depthwise = conv(expanded, expanded, 3, stride, groups=expanded, activation=nn.ReLU6)
        self.project = conv(expanded, outputs, 1)

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class ShapesNet(nn.Module):
    """101,106 parameters. Most channel counts are multiples of 8 but not of 16, so that vector kernels have tails."""

    def __init__(self, classes):
        super().__init__()
        self.stem = conv(3, 16, 3, activation=nn.ReLU)             # 32 x 32
        self.pool = nn.MaxPool2d(2)                                # 16 x 16
        self.residual = Residual(16)
        self.down = conv(16, 40, 3, stride=2, activation=nn.ReLU)  # 8 x 8
        self.blocks = nn.Sequential(
            InvertedResidual(40, 40, 120),
            InvertedResidual(40, 40, 120),
            InvertedResidual(40, 72, 160, stride=2),               # 4 x 4
            InvertedResidual(72, 72, 216),
        )
        self.head = conv(72, 160, 1, activation=nn.ReLU6)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(160, classes)

    def forward(self, x):
        x = self.residual(self.pool(self.stem(x)))
        x = self.head(self.blocks(self.down(x)))
        return self.classify(torch.flatten(self.average(x), 1))


def prepare(images):
    """What preprocess.json says, on a uint8 [N,H,W,3] array: float32 [N,3,H,W]."""
    x = (images.astype(np.float32) * np.float32(1 / 255) - np.float32(render.MEAN)) / np.float32(render.STD)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def augment(images, rng):
    """Each picture turned by a multiple of 90 degrees, mirrored half of the time: no class changes by that."""
    out = images.copy()
    turns = rng.integers(0, 8, len(images))
    for t in range(8):
        part = np.rot90(images[turns == t], t % 4, (1, 2))
        out[turns == t] = part[:, :, ::-1] if t >= 4 else part
    return out


def check_gradients(model, images, labels):
    """Stops unless oneDNN's loss and gradients agree with PyTorch's own loops."""
    results = []
    for enabled in (False, True):
        with torch.backends.mkldnn.flags(enabled=enabled):
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(prepare(images)), torch.from_numpy(labels))
            loss.backward()
            results.append([loss.detach()] + [p.grad.clone() for p in model.parameters()])
    model.zero_grad()
    scale = max(own.norm().item() for own in results[0])
    for own, fast in zip(*results):
        error = (own - fast).norm().item() / scale
        if not error < 0.01:  # rounding gives 0.001, wrong packing 1 or NaN
            sys.exit(f"oneDNN and PyTorch disagree by {error:.2g} in the loss or a gradient of shape {tuple(own.shape)}")


def train(model, images, labels, epochs):
    """AdamW, one cycle: a short linear warm-up, then a cosine down to zero."""
    rng = np.random.default_rng(TRAINING_SEED)
    steps = epochs * (len(images) // BATCH)
    warm = steps // 20
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: (s + 1) / warm if s < warm else 0.5 * (1 + math.cos(math.pi * (s - warm) / (steps - warm))))
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for epoch in range(epochs):
        start, total = time.monotonic(), 0.0
        order = rng.permutation(len(images))
        for i in range(len(images) // BATCH):
            chosen = order[i * BATCH:(i + 1) * BATCH]
            loss = loss_of(model(prepare(augment(images[chosen], rng))), torch.from_numpy(labels[chosen]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / (len(images) // BATCH):.3f}, "
              f"{time.monotonic() - start:.0f} s", flush=True)


def evaluate(model, images, labels):
    """Prints top-1 and, per class, the recall and the class it is most often taken for."""
    model.eval()
    with torch.no_grad():
        guessed = model(prepare(images)).argmax(1).numpy()
    confusion = np.zeros((len(render.CLASSES),) * 2, int)
    np.add.at(confusion, (labels, guessed), 1)
    print(f"top-1 {100 * np.trace(confusion) / confusion.sum():.2f} % of {len(labels)} (PyTorch)")
    for i, name in enumerate(render.CLASSES):
        wrong = confusion[i].copy()
        wrong[i] = 0
        note = f", {wrong.max()} taken for {render.CLASSES[wrong.argmax()]}" if wrong.any() else ""
        print(f"  {name:9} {confusion[i, i]:3} of {confusion[i].sum()}{note}")


def export(model, path):
    """ONNX with a dynamic batch; the TRAINING_PRESERVE and no folding keep BatchNormalization as nodes."""
    model.eval()
    torch.onnx.export(
        model, torch.zeros(1, 3, render.SIZE, render.SIZE), str(path), dynamo=False, opset_version=OPSET,
        input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", default=pathlib.Path(__file__).parent, type=pathlib.Path, metavar="OUT_DIR")
    parser.add_argument("--epochs", type=int, default=15, help="default %(default)s")
    args = parser.parse_args()

    torch.manual_seed(TRAINING_SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    model = ShapesNet(len(render.CLASSES))
    print(f"{sum(p.numel() for p in model.parameters())} parameters; rendering", flush=True)
    images, labels = render.render(TRAINING_COUNT, TRAINING_SEED)
    check_gradients(copy.deepcopy(model), images[:64], labels[:64])
    train(model, images, labels, args.epochs)
    calibration, _ = render.render(CALIBRATION_COUNT, CALIBRATION_SEED)
    evaluation, labels = render.render(EVALUATION_COUNT, EVALUATION_SEED)
    evaluate(model, evaluation, labels)
    render.save(args.out / "calibration", calibration)
    render.save(args.out / "evaluation", evaluation, labels)
    export(model, args.out / "model.onnx")
    return 0


if __name__ == "__main__":
    sys.exit(main())
