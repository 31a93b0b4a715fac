# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints through our builder and runtime give the logits of an independent NumPy forward pass
(support/hf_forward.py): tiny random checkpoints of every architecture on both backends, the KV cache token by token, and
the real model of the shared data with its published perplexity."""
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import numpy as np

from hf_checkpoints import CASES, VOCAB
from hf_forward import forward
from service import main, program, shared_data

# Logits are of order 1 to 10 and float32 carries 6e-8 of each through some 20 sums of 64 to 172 terms: errors stay near
# 1e-5. The goal set for the project is 1e-4.
TOLERANCE = 1e-4
BATCH, LENGTH = 2, 13


def run(*args):
    done = subprocess.run([program("run_language_model"), *map(str, args)], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise AssertionError(f"run_language_model {' '.join(map(str, args))}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def ours(folder, tokens, *flags):
    """Logits [batch, sequence, vocab] of our build of the checkpoint in `folder`."""
    with tempfile.TemporaryDirectory(prefix="quant-test.") as scratch:
        scratch = pathlib.Path(scratch)
        np.asarray(tokens, "<i8").tofile(scratch / "tokens")
        run(folder, scratch / "tokens", len(tokens), scratch / "logits", *flags)
        return np.fromfile(scratch / "logits", "<f4").reshape(*np.shape(tokens), -1)


class HuggingFaceTest(unittest.TestCase):

    def check(self, what, got, want, tolerance=TOLERANCE):
        self.assertEqual(got.shape, want.shape, what)
        self.assertTrue(np.isfinite(got).all(), what)
        self.assertGreater(want.std(), 0.1, f"{what}: logits that are all alike prove nothing")
        error = float(np.abs(got - want).max())
        print(f"{what:45} largest difference {error:.1e} (logits up to {np.abs(want).max():.1f})")
        self.assertLess(error, tolerance, what)

    def test_every_architecture_on_both_backends_and_with_a_cache(self):
        with tempfile.TemporaryDirectory(prefix="quant-test.") as scratch:
            for i, case in enumerate(CASES):
                folder = pathlib.Path(scratch) / case.name
                config, tensors = case.make(folder)
                tokens = np.random.default_rng(i).integers(0, VOCAB, (BATCH, LENGTH))
                want = forward(config, tensors, tokens)
                flags = [("--backend", "reference"), (), ("--threads", "2"), ("--prefill", "5"),
                         ("--backend", "reference", "--prefill", "5"), ("--prefill", LENGTH)]
                if case.name in ("rope_dynamic", "phi3_long"):
                    # Frequencies depend on the length so far: keys in a cache keep those of their time (as upstream).
                    flags = [f for f in flags if "--prefill" not in f] + [("--prefill", LENGTH)]
                for f in flags:
                    with self.subTest(case=case.name, flags=f):
                        self.check(f"{case.name} {' '.join(map(str, f))}", ours(folder, tokens, *f), want)

    def test_one_token_alone(self):
        with tempfile.TemporaryDirectory(prefix="quant-test.") as scratch:
            for case in CASES:
                folder = pathlib.Path(scratch) / case.name
                config, tensors = case.make(folder)
                with self.subTest(case=case.name):
                    self.check(case.name, ours(folder, [[3]]), forward(config, tensors, np.array([[3]])))


class RealModelTest(unittest.TestCase):

    def setUp(self):
        if shared_data() is None:
            self.skipTest("real data is not there: set QUANT_SHARED to the folder that has data/")
        self.model = shared_data() / "models" / "tinystories-656k"
        self.tokens = shared_data() / "datasets" / "tinystories.tok2048.u16"
        self.offsets = shared_data() / "datasets" / "tinystories.tok2048.offsets.u32"

    def test_logits_of_real_stories(self):
        config = json.loads((self.model / "config.json").read_text())
        tensors = read_bf16(self.model / "model.safetensors")
        ids, offsets = np.fromfile(self.tokens, "<u2"), np.fromfile(self.offsets, "<u4")
        for story in (0, 17, 101):
            tokens = ids[offsets[story]:offsets[story + 1]][:96].astype(np.int64)[None]
            want = forward(config, tensors, tokens)
            for flags in ((), ("--backend", "reference"), ("--prefill", "64")):
                with self.subTest(story=story, flags=flags):
                    got = ours(self.model, tokens, *flags)
                    error = float(np.abs(got - want).max())
                    print(f"story {story} {' '.join(flags):28} largest difference {error:.1e}")
                    self.assertLess(error, TOLERANCE)

    def test_perplexity_of_the_manifest(self):
        out = run(self.model, self.tokens, self.offsets, "--score", "512")
        count, nll = re.fullmatch(r"tokens (\d+) nll ([0-9.]+)\n", out).groups()
        perplexity = math.exp(float(nll) / int(count))
        print(f"perplexity {perplexity:.4f} over {count} tokens")
        self.assertEqual(int(count), 88257)
        self.assertAlmostEqual(perplexity, 24.4855, delta=0.0005)


def read_bf16(file):
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16", entry
        begin, end = entry["data_offsets"]
        bits = np.frombuffer(data[8 + size + begin:8 + size + end], "<u2").astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(entry["shape"]).astype(np.float64)
    return tensors


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    main()
