# SPDX-License-Identifier: Apache-2.0
"""GGUF files of real jobs in llama.cpp itself (bench/peers/llama_cpp_run.py): it loads them, finds the tokens we find, gives
the logits that the file's numbers give, the perplexity of our report, and text."""
import dataclasses
import json
import math
import shutil
import subprocess
import sys

import numpy as np

from hf_checkpoints import CASES
from hf_forward import forward
from service import EXAMPLE, TOP, ServiceTestCase, main, program, shared_data

sys.path.insert(0, str(TOP / "worker" / "formats"))
from read_gguf import load  # noqa: E402
from run_gguf import logits as in_numpy  # noqa: E402

LLAMA_CPP = [sys.executable, str(TOP / "bench" / "peers" / "llama_cpp_run.py")]
STORIES = EXAMPLE.parent / "stories"
LENGTH = 512
# Bound on the mean divergence of llama.cpp's next-token distributions from those of the file's numbers in float64. What
# llama.cpp rounds besides the weights are activations: blocks of 32 as 8-bit integers, BF16 where the weight is BF16. A
# block's largest is about 2.2 standard deviations, the step a 127th of that, so a product carries 0.5 % of noise (BF16:
# 0.1 %), where 4-bit weights carry 10 %; divergence goes with the square. Measured: 3e-6 to 4e-4.
DIVERGENCE = 1e-3
TEXTS = ["Once upon a time, there was a little girl named Lily.", "  two  spaces,\ttabs\n\nand lines \n", "don't DON'T I'll",
         "It's 1234567 o'clock!!!", "naïve café – “quoted” 你好 🙂", "x=(a+b)*[c]; // {code}", " ", "a", "<|begin_of_text|>x"]


def llama(command, *arguments, data=None, folder=None):
    """The JSON that llama_cpp_run.py prints; `data` becomes a file behind the model."""
    arguments = [str(a) for a in arguments]
    if data is not None:
        (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
        arguments.insert(1, str(folder / "data.json"))
    done = subprocess.run([*LLAMA_CPP, command, *arguments], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise AssertionError(f"llama_cpp_run.py {command}: exit {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(done.stdout)


def windows_of(model, data, length=LENGTH):
    """The ids that a job evaluates on, window by window."""
    done = subprocess.run([program("run_language_model"), model, data, "--windows", str(length)], capture_output=True,
                          text=True, timeout=120, check=True)
    return [[int(i) for i in line.split()] for line in done.stdout.splitlines()]


def log_softmax(x):
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class LlamaCppTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        cls.share_service()

    def quantized(self, model, *flags):
        """The .gguf file of a job, and the job's report."""
        job = self.service.run_job("--model", model, "--format", "gguf", "--latency-runs", "-1", *flags, timeout=600)
        folder = self.folder()
        self.service.ok("model", "download", job["result_model_id"], folder / "out")
        return folder / "out" / "model.gguf", self.service.report(job["id"])

    def their_logits(self, file, windows):
        """Per window [tokens, vocabulary], from llama.cpp."""
        folder = self.folder()
        told = llama("logits", file, folder / "logits", data=windows, folder=folder)
        rows = np.memmap(folder / "logits", "<f4", "r", shape=(told["rows"], told["vocabulary"]))
        return np.split(rows, np.cumsum([len(w) for w in windows])[:-1])

    def check(self, what, file, report, windows):
        """Logits against NumPy's on a few windows, then the perplexity of all against the report's."""
        theirs = self.their_logits(file, windows)
        keys, tensors, _ = load(file)
        divergence, difference = [], 0
        for window, got in list(zip(windows, theirs))[:8]:
            want = in_numpy(keys, tensors, window)
            difference = max(difference, float(np.abs(got - want).max()))
            p, q = log_softmax(want), log_softmax(got)
            divergence.append((np.exp(p) * (p - q)).sum(-1))
        divergence = float(np.concatenate(divergence).mean())
        losses = np.concatenate([-log_softmax(got[:-1])[np.arange(len(w) - 1), w[1:]] for w, got in zip(windows, theirs)])
        perplexity, ours = math.exp(losses.mean()), next(m for m in report["metrics"] if m["name"] == "perplexity")
        self.assertEqual(len(losses), ours["samples"], what)
        change = math.log(perplexity / ours["quantized"])
        print(f"{what:32} perplexity {ours['original']:.4f}, quantized {ours['quantized']:.4f}, in llama.cpp {perplexity:.4f}"
              f" ({change:+.5f}); divergence {divergence:.1e}, logits differ by {difference:.3f} at most")
        self.assertLess(divergence, DIVERGENCE, what)
        # Noise changes a token's log-likelihood by a standard deviation of sqrt(2 KL), and on average by KL.
        self.assertLess(abs(change), DIVERGENCE + 4 * math.sqrt(2 * DIVERGENCE / len(losses)), what)
        return keys, tensors

    def generates(self, what, file, keys, tensors, prompt):
        """Greedy text, each token of which must be NumPy's best one too, or one that is hardly worse."""
        told = llama("generate", file, "--tokens", "32", data=prompt, folder=self.folder())
        self.assertEqual(len(told["tokens"]), 32)
        rows = in_numpy(keys, tensors, prompt + told["tokens"])[len(prompt) - 1:-1]
        behind = rows.max(-1) - rows[np.arange(32), told["tokens"]]
        print(f"{what:32} {told['text']!r}")
        self.assertLess(float(behind.max()), 0.3, f"{what}: tokens that are not the best: {behind}")

    def language_model(self, name, folder, calibration, evaluation, skip, count):
        model = self.service.upload("model", folder)
        data = ["--calibration", self.service.upload("dataset", calibration), "--calibration-samples", "32",
                "--evaluation", self.service.upload("dataset", evaluation), "--evaluation-skip", skip,
                "--evaluation-samples", count, "--sequence-length", LENGTH]
        windows = windows_of(folder, evaluation)[skip:skip + count]
        types = {2: "Q4_0", 3: "Q4_1", 8: "Q8_0", 30: "BF16"}
        for flags, wanted in ((["--method", "rtn", "--skip", "*"], "BF16"),
                              (["--method", "rtn", "--bits", "8", "--group-size", "32"], "Q8_0"),
                              (["--method", "rtn", "--bits", "4", "--group-size", "32"], "Q4_0"),
                              (["--method", "gptq", "--bits", "4", "--group-size", "32"], "Q4_0"),
                              (["--method", "awq", "--bits", "4", "--group-size", "32"], "Q4_1"),
                              (["--method", "hqq", "--bits", "4", "--group-size", "32"], "Q4_1")):
            what = f"{name} {flags[1]} {wanted}"
            with self.subTest(what):
                file, report = self.quantized(model, *data, *flags)
                kinds = {types[kind] for tensor, kind in load(file)[2].items() if tensor.startswith("blk.0.ffn_")
                         and "norm" not in tensor}
                self.assertEqual(kinds, {wanted})
                keys, tensors = self.check(what, file, report, windows)
                self.generates(what, file, keys, tensors, windows[0][:8])
        return file

    def tokens_agree(self, model, file, text, length):
        """The tokens that llama.cpp finds in the documents of a text file are those a job evaluates on."""
        texts, ours = evaluation_texts(text), windows_of(model, text, length)
        theirs = llama("tokenize", file, data=texts, folder=self.folder())["tokens"]
        for document, want, got in zip(texts, ours, theirs, strict=True):
            self.assertEqual(got[:length], want, document)

    def odd_text(self):
        folder = self.folder()
        (folder / "odd.txt").write_text("\n<|endoftext|>\n".join(TEXTS), encoding="utf-8")
        return folder / "odd.txt"

    def test_every_architecture(self):
        """Random weights, stored as they are, against an independent forward pass of the checkpoint itself."""
        tokenizer = json.loads((STORIES / "model" / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
        splits = {"llama-bpe": tokenizer["pre_tokenizer"], "gpt-2": byte_level,
                  "qwen2": json.loads(json.dumps(tokenizer["pre_tokenizer"]).replace("{1,3}", "")),
                  "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]}}
        odd = self.odd_text()
        yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
        for name, pre, more in (("llama", "llama-bpe", {}), ("llama_biases_sharded", "gpt-2", {}), ("mistral", "gpt-2", {}),
                                ("qwen2", "qwen2", {}), ("qwen3", "qwen2", {}), ("rope_linear", "smollm", {}),
                                ("rope_llama3", "llama-bpe", {}), ("rope_yarn", "gpt-2", {}),
                                ("qwen2", "qwen2", {"rope_scaling": {**yarn, "attention_factor": 1.3}}),
                                ("qwen3", "qwen2", {"rope_parameters": {**yarn, "rope_theta": 300.0}})):
            with self.subTest(name, more=more):
                case = next(c for c in CASES if c.name == name)
                case = dataclasses.replace(
                    case, dtype="F32", config={**case.config, "vocab_size": vocabulary, "sliding_window": None, **more},
                    shapes={n: (vocabulary, *s[1:]) if "embed_tokens" in n or "lm_head" in n else s
                            for n, s in case.shapes.items()})
                folder = self.folder() / name
                config, tensors = case.make(folder)
                (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "pre_tokenizer": splits[pre]}), encoding="utf-8")
                shutil.copy(STORIES / "model" / "tokenizer_config.json", folder)
                file, _ = self.quantized(self.service.upload("model", folder), "--method", "rtn", "--skip", "*")
                keys = load(file)[0]
                self.assertEqual(keys["tokenizer.ggml.pre"], pre)
                self.tokens_agree(folder, file, odd, 64)
                windows = np.random.default_rng(0).integers(0, vocabulary, [2, 48])
                got = np.array(self.their_logits(file, windows.tolist()))
                want = forward(config, tensors, windows)
                error = float(np.abs(got - want).max() / np.abs(want).max())
                print(f"{name:32} logits differ by {error:.1e} of the largest")
                self.assertLess(error, 1e-5)  # float32 there, float64 here

    def test_stories(self):
        model, text = STORIES / "model", STORIES / "evaluation" / "stories.txt"
        file = self.language_model("stories", model, STORIES / "calibration", text, 0, 64)
        self.tokens_agree(model, file, text, LENGTH)
        self.tokens_agree(model, file, self.odd_text(), LENGTH)

    def test_tinystories(self):
        if shared_data() is None:
            self.skipTest("needs real models and data in $QUANT_SHARED/data")
        model, text = shared_data() / "models" / "tinystories-656k", shared_data() / "datasets" / "tinystories.txt"
        file = self.language_model("tinystories", model, text, text, 128, 64)
        self.tokens_agree(model, file, text, LENGTH)


def evaluation_texts(file):
    """The documents of a text file, as docs/formats/datasets.md has them."""
    documents = [[]]
    for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        if line == "<|endoftext|>":
            documents.append([])
        else:
            documents[-1].append(line)
    return [text for text in map("\n".join, documents) if text]


if __name__ == "__main__":
    installed = subprocess.run([*LLAMA_CPP, "install"], capture_output=True, text=True, check=False)
    if installed.returncode == 3:
        print(f"skipped: {installed.stderr.strip()}")
        sys.exit(77)
    main()
