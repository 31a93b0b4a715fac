#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads a GGUF file as docs/formats/gguf.md describes it and compares tensors with float32 files.

  read_gguf.py FILE [NAME=FILE.f32[,TOLERANCE] ...]

FILE.f32 holds a tensor under its Hugging Face order of rows; rows of attn_q and attn_k of architecture llama are put
back into it here. Prints the metadata as JSON (long arrays shortened). Exit status 1 when the file breaks a rule or a
number differs by more than the tolerance (0 when none is given).
"""
import json
import struct
import sys

import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        value = struct.unpack_from("<" + form, self.data, self.at)[0]
        self.at += struct.calcsize("<" + form)
        return value

    def string(self):
        n = self.take("Q")
        value = self.data[self.at : self.at + n].decode()
        self.at += n
        return value

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, n = self.take("I"), self.take("Q")
            assert inner != 9
            return [self.value(inner) for _ in range(n)]
        return self.take(SCALARS[kind])


def tensor(data, kind, dims):
    cols = dims[0]
    rows = int(np.prod(dims[1:], dtype=np.int64))
    raw = np.frombuffer(data, np.uint8)
    size = {0: 4 * cols, 1: 2 * cols, 30: 2 * cols, 2: cols // 32 * 18, 3: cols // 32 * 20, 8: cols // 32 * 34}[kind] * rows
    raw = raw[:size]
    assert len(raw) == size, "tensor beyond the end"
    if kind == 0:
        values = raw.view(np.float32)
    elif kind == 1:
        values = raw.view(np.float16).astype(np.float32)
    elif kind == 30:
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        blocks = raw.reshape(-1, {2: 18, 3: 20, 8: 34}[kind])
        d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        if kind == 8:
            values = d * blocks[:, 2:].copy().view(np.int8).astype(np.float32)
        else:
            nibbles = blocks[:, -16:]
            q = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32)
            values = d * (q - 8) if kind == 2 else d * q + blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    return values.reshape(dims[::-1]), size


def load(path):
    """Keys, tensors as float32, and the types of tensors."""
    with open(path, "rb") as file:
        data = file.read()
    r = Reader(data)
    assert data[:4] == b"GGUF"
    r.at = 4
    assert r.take("I") == 3
    n_tensors, n_keys = r.take("Q"), r.take("Q")
    keys, kinds = {}, {}
    for _ in range(n_keys):
        key = r.string()
        assert key and key not in keys, key
        kinds[key] = r.take("I")
        keys[key] = r.value(kinds[key])
    infos = []
    for _ in range(n_tensors):
        name = r.string()
        dims = [r.take("Q") for _ in range(r.take("I"))]
        infos.append((name, dims, r.take("I"), r.take("Q")))
    start = (r.at + 31) // 32 * 32
    assert not any(data[r.at : start])
    tensors, offset, types = {}, 0, {}
    for name, dims, kind, at in infos:
        assert at == offset and name not in tensors and len(name.encode()) < 64, name
        tensors[name], size = tensor(data[start + at :], kind, dims)
        types[name] = kind
        offset += (size + 31) // 32 * 32
    assert len(data) == start + offset, "the last tensor is padded and nothing follows"
    arch = keys.get("general.architecture", "")
    for key, kind in kinds.items():
        assert not (key.startswith(arch + ".") and isinstance(keys[key], int)) or kind in (4, 7), key
    return keys, tensors, types


def main(arguments):
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    keys, tensors, types = load(arguments[0])
    arch = keys.get("general.architecture", "")
    shown = {k: v if not isinstance(v, list) or len(v) < 20 else [len(v)] + v[:8] for k, v in keys.items()}
    print(json.dumps({"keys": shown, "types": types}))
    failed = False
    for argument in arguments[1:]:
        name, file = argument.split("=", 1)
        file, _, tolerance = file.partition(",")
        got = tensors[name]
        if arch == "llama" and (".attn_q." in name or ".attn_k." in name):
            heads = keys["llama.attention.head_count" + ("_kv" if ".attn_k." in name else "")]
            got = got.reshape(heads, -1, 2, *got.shape[1:]).swapaxes(1, 2).reshape(got.shape)
        want = np.fromfile(file, np.float32).reshape(got.shape)
        worst = float(np.max(np.abs(got - want), initial=0))
        same = worst <= float(tolerance or 0)
        failed |= not same
        print("ok " if same else "BAD", name, got.shape, worst, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
