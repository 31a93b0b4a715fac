#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Renders the "shapes" pictures: one of ten shapes on a cluttered, noisy 32 x 32 RGB background.

Only numpy is needed. The same seed gives the same pictures. A picture is made in this order:
a two-colour gradient, blobs and strokes of clutter behind, the shape (random place, size, rotation, stretch,
colour), sometimes one stroke in front of it, then sensor noise. Colour contrast and noise vary widely, so that some
pictures are hard or hopeless and a good network stays clearly below 100 %.

  render.py OUT_DIR --seed 7 --count 1000     writes images.npy, labels.npy and preprocess.json
"""
import argparse
import json
import pathlib

import numpy as np

SIZE = 32
CLASSES = ("disc", "ring", "crescent", "triangle", "square", "bars", "star", "plus", "heart", "arrow")

# Normalisation per RGB channel: about the mean and standard deviation of the pictures, in 0..1.
MEAN = (0.5, 0.5, 0.5)
STD = (0.275, 0.275, 0.275)

# How hard the pictures are.
RADIUS_PIXELS = (6.5, 12.0)  # half the extent of a shape
STRETCH = 1.15               # at most, along one axis and its inverse along the other
CONTRAST = (0.20, 0.80)      # distance of shape and background colour in the RGB unit cube
NOISE = (0.01, 0.09)         # standard deviation of the sensor noise, of full scale
OCCLUDED = 0.30              # share of pictures with a stroke in front of the shape


# ---------------------------------------------------------------------------------------------------------------
# Shapes. Each function takes x, y of any equal shape, in units of the shape's radius, y upwards, and returns a
# signed distance: negative inside, zero on the outline, exact or nearly so close to it.


def _disc(x, y, r=0.9):
    return np.hypot(x, y) - r


def _box(x, y, w, h):
    return np.maximum(np.abs(x) - w, np.abs(y) - h)


def _polygon(x, y, sides, apothem):
    """A regular polygon, as the largest distance to its edges' lines."""
    angles = 2 * np.pi * np.arange(sides) / sides
    return np.max([x * np.cos(a) + y * np.sin(a) for a in angles], axis=0) - apothem


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.72) - 0.2


def _crescent(x, y):
    return np.maximum(np.hypot(x, y) - 1.0, 0.8 - np.hypot(x - 0.5, y))


def _star(x, y, outer=1.1, inner=0.45):
    """Five points: fold the plane into half a point, then the distance to the line from tip to notch."""
    step = np.pi / 5
    angle = np.arctan2(y, x) % (2 * step)
    angle = np.minimum(angle, 2 * step - angle)
    r = np.hypot(x, y)
    px, py = r * np.cos(angle), r * np.sin(angle)
    ex, ey = inner * np.cos(step) - outer, inner * np.sin(step)
    return ((px - outer) * -ey + py * ex) / -np.hypot(ex, ey)


def _plus(x, y):
    return np.minimum(_box(x, y, 1.0, 0.3), _box(x, y, 0.3, 1.0))


def _heart(x, y):
    """A square standing on its corner, and a disc on each of its upper edges."""
    half, y = 0.58, y + 0.15
    offset = half / np.sqrt(2)
    square = _box((x + y) / np.sqrt(2), (x - y) / np.sqrt(2), half, half)
    lobes = np.hypot(np.abs(x) - offset, y - offset) - half
    return np.minimum(square, lobes)


def _arrow(x, y):
    shaft = _box(x + 0.4, y, 0.6, 0.22)
    head = np.maximum(-(x - 0.1), ((x - 1.0) + np.abs(y) * 1.1) / np.hypot(1.0, 1.1))
    return np.minimum(shaft, head)


_DISTANCE = {
    "disc": _disc,
    "ring": _ring,
    "crescent": _crescent,
    "triangle": lambda x, y: _polygon(x, y, 3, 0.55),
    "square": lambda x, y: _polygon(x, y, 4, 0.78),
    "bars": lambda x, y: _box(x, np.abs(y) - 0.55, 0.9, 0.27),
    "star": _star,
    "plus": _plus,
    "heart": _heart,
    "arrow": _arrow,
}


# ---------------------------------------------------------------------------------------------------------------
# Pictures


def _paint(canvas, coverage, colour):
    """Blends colour [n,3] over canvas [n,H,W,3] where coverage [n,H,W] in 0..1 says so."""
    canvas += coverage[..., None] * (colour[:, None, None, :] - canvas)


def _stroke(rng, n, px, py, width):
    """Coverage of a straight stroke between two random points for each of n pictures."""
    ax, ay, bx, by = (rng.uniform(-4, SIZE + 4, (n, 1, 1)) for _ in range(4))
    dx, dy = bx - ax, by - ay
    t = np.clip(((px - ax) * dx + (py - ay) * dy) / np.maximum(dx * dx + dy * dy, 1e-9), 0, 1)
    distance = np.hypot(px - ax - t * dx, py - ay - t * dy)
    return np.clip(0.5 + rng.uniform(*width, (n, 1, 1)) - distance, 0, 1)


def _colour_at_distance(rng, base, distance):
    """A random colour of the unit cube at the wanted distance from base, as nearly as 16 tries allow."""
    n = len(base)
    direction = rng.normal(size=(16, n, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    tries = np.clip(base + direction * distance[:, None], 0, 1)
    error = np.abs(np.linalg.norm(tries - base, axis=-1) - distance)
    return tries[np.argmin(error, axis=0), np.arange(n)]


def _render_batch(rng, labels):
    n = len(labels)
    py, px = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    px, py = px[None], py[None]
    column = (n, 1, 1)

    # Background: a gradient between two near colours, in a random direction.
    first = rng.uniform(0.05, 0.95, (n, 3))
    second = np.clip(first + rng.normal(0, 0.12, (n, 3)), 0, 1)
    angle = rng.uniform(0, 2 * np.pi, column)
    ramp = 0.5 + ((px - SIZE / 2) * np.cos(angle) + (py - SIZE / 2) * np.sin(angle)) / (1.5 * SIZE)
    canvas = np.repeat(first, SIZE * SIZE, axis=0).reshape(n, SIZE, SIZE, 3)
    _paint(canvas, np.clip(ramp, 0, 1), second)

    # Clutter behind: up to two blobs and two strokes.
    for _ in range(2):
        cx, cy = rng.uniform(0, SIZE, column), rng.uniform(0, SIZE, column)
        radius = rng.uniform(1.0, 4.0, column)
        present = rng.uniform(size=column) < 0.6
        colour = _colour_at_distance(rng, first, rng.uniform(0.05, 0.4, n))
        _paint(canvas, present * np.clip(0.5 + radius - np.hypot(px - cx, py - cy), 0, 1), colour)
    for _ in range(2):
        present = rng.uniform(size=column) < 0.6
        colour = _colour_at_distance(rng, first, rng.uniform(0.05, 0.4, n))
        _paint(canvas, present * _stroke(rng, n, px, py, (0.3, 1.2)), colour)

    # The shape.
    radius = rng.uniform(*RADIUS_PIXELS, column)
    room = np.maximum(SIZE / 2 - radius, 0) * 0.9
    cx, cy = SIZE / 2 + rng.uniform(-1, 1, column) * room, SIZE / 2 + rng.uniform(-1, 1, column) * room
    turn, axis = rng.uniform(0, 2 * np.pi, column), rng.uniform(0, np.pi, column)
    stretch = STRETCH ** rng.uniform(-1, 1, column)
    x, y = (px - cx) / radius, (cy - py) / radius
    x, y = x * np.cos(axis) + y * np.sin(axis), y * np.cos(axis) - x * np.sin(axis)
    x, y = x * stretch, y / stretch
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.empty((n, SIZE, SIZE))
    for label in np.unique(labels):
        chosen = labels == label
        distance[chosen] = _DISTANCE[CLASSES[label]](x[chosen], y[chosen])
    colour = _colour_at_distance(rng, (first + second) / 2, rng.uniform(*CONTRAST, n))
    _paint(canvas, np.clip(0.5 - distance * radius, 0, 1), colour)

    # A stroke in front, then noise.
    present = rng.uniform(size=column) < OCCLUDED
    _paint(canvas, present * _stroke(rng, n, px, py, (0.5, 1.5)), rng.uniform(0, 1, (n, 3)))
    canvas += rng.normal(size=canvas.shape) * rng.uniform(*NOISE, (n, 1, 1, 1))
    return np.clip(np.rint(canvas * 255), 0, 255).astype(np.uint8)


def render(count, seed):
    """Returns (images uint8 [count,32,32,3] RGB, labels int64 [count]); the classes are as even as can be."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASSES))
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for start in range(0, count, 256):
        images[start:start + 256] = _render_batch(rng, labels[start:start + 256])
    return images, labels


def save(folder, images, labels=None):
    """Writes a dataset folder: images.npy, preprocess.json and, where given, labels.npy."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    preprocess = {"array": "images.npy", "layout": "NHWC", "channels": "RGB", "output_layout": "NCHW",
                  "scale": 1 / 255, "mean": list(MEAN), "std": list(STD)}
    (folder / "preprocess.json").write_text(json.dumps(preprocess, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT_DIR")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7, help="1, 2 and 3 are taken by train.py (default 7)")
    args = parser.parse_args()
    save(args.out, *render(args.count, args.seed))


if __name__ == "__main__":
    main()
