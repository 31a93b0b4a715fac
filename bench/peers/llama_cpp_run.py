#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""llama.cpp as an outside judge of GGUF files: tokens, logits and greedy text, through the C interface of its own library.

Used by tests, inside the environment of ./dev; no part of the service. The library is llama.cpp v0.5.0 as the npm package
PACKAGE below carries it, prebuilt for x86-64. It is looked for in build/llama-cpp; when it is not there npm installs it
(10 MB; `./dev --with peers` has npm, and `llama_cpp_run.py install` may as well be run outside of the environment).

  llama_cpp_run.py install
  llama_cpp_run.py tokenize model.gguf texts.json               # a list of texts -> {"tokens": [[id, ...], ...]}
  llama_cpp_run.py logits model.gguf windows.json out.f32       # lists of ids, each from position 0, in turn:
                                                                # out.f32 gets a row of logits for every token
  llama_cpp_run.py generate model.gguf prompt.json --tokens 32  # -> {"tokens": [id, ...], "text": ...}, greedy

Results are one JSON document on stdout, llama.cpp's log goes to stderr. Exit status: 0 done, 1 llama.cpp refuses the file or
the data (its log says why), 2 wrong usage, 3 the library is not to be had here.
"""
import argparse
import array
import ctypes
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "build" / "llama-cpp"
LIBRARY = FOLDER / "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"


class Missing(Exception):
    """The library is not to be had; the text says why."""


class Unfit(Exception):
    """llama.cpp does not take the file or the data; the text says why."""


def install():
    """The folder of the library, installed by npm when it is not there."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise Missing(f"{PACKAGE} is for Linux on x86-64")
    if LIBRARY.is_dir():
        return LIBRARY
    if shutil.which("npm") is None:
        raise Missing(f"llama.cpp is not in {FOLDER} and there is no npm to install it: ./dev --with peers has it")
    FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llama-cpp.", dir=FOLDER.parent) as partial:
        done = subprocess.run(["npm", "install", "--prefix", partial, "--cache", os.path.join(partial, "cache"),
                               "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", PACKAGE],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise Missing(f"npm cannot install {PACKAGE}: {done.stdout.strip()[-500:]}")
        shutil.rmtree(os.path.join(partial, "cache"), ignore_errors=True)
        (pathlib.Path(partial) / "node_modules").rename(_fresh(FOLDER) / "node_modules")
    return LIBRARY


def _fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


class _ModelParams(ctypes.Structure):
    """llama_model_params: passed on as it comes, so only its size matters, and may be too large."""

    _fields_ = [("all", ctypes.c_byte * 256)]


class _ContextParams(ctypes.Structure):
    """llama_context_params up to the types of the cache, and room for the others."""

    _fields_ = [(name, ctypes.c_uint32) for name in (
        "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq", "n_threads",
        "n_threads_batch", "ctx_type", "rope_scaling_type", "pooling_type", "attention_type", "flash_attn_type")]
    _fields_ += [("rope", ctypes.c_uint32 * 8), ("cb_eval", ctypes.c_void_p), ("cb_eval_user_data", ctypes.c_void_p),
                 ("type_k", ctypes.c_uint32), ("type_v", ctypes.c_uint32), ("others", ctypes.c_byte * 256)]


class _Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
                ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


def _library(folder):
    """libllama with its CPU kernels, and the types of the functions used here (include/llama.h of v0.5.0)."""
    pointer, i32 = ctypes.c_void_p, ctypes.c_int32
    ggml = ctypes.CDLL(str(next(folder.glob("libggml.v*.so"))))
    ggml.ggml_backend_load_all_from_path(ctypes.c_char_p(str(folder).encode()))
    lib = ctypes.CDLL(str(next(folder.glob("libllama.v*.so"))))
    for name, result, arguments in (
            ("llama_model_default_params", _ModelParams, []),
            ("llama_context_default_params", _ContextParams, []),
            ("llama_model_load_from_file", pointer, [ctypes.c_char_p, _ModelParams]),
            ("llama_init_from_model", pointer, [pointer, _ContextParams]),
            ("llama_model_get_vocab", pointer, [pointer]),
            ("llama_vocab_n_tokens", i32, [pointer]),
            ("llama_tokenize", i32, [pointer, ctypes.c_char_p, i32, ctypes.POINTER(i32), i32, ctypes.c_bool, ctypes.c_bool]),
            ("llama_detokenize", i32, [pointer, ctypes.POINTER(i32), i32, ctypes.c_char_p, i32, ctypes.c_bool, ctypes.c_bool]),
            ("llama_batch_init", _Batch, [i32, i32, i32]),
            ("llama_decode", i32, [pointer, _Batch]),
            ("llama_get_logits_ith", pointer, [pointer, i32]),
            ("llama_get_memory", pointer, [pointer]),
            ("llama_memory_clear", None, [pointer, ctypes.c_bool])):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.llama_backend_init()
    return lib


class Model:
    """A GGUF file in llama.cpp, with room for `length` tokens of one sequence."""

    def __init__(self, path, length, threads):
        self.lib = _library(install())
        self.model = self.lib.llama_model_load_from_file(os.fsencode(path), self.lib.llama_model_default_params())
        if not self.model:
            raise Unfit(f"llama.cpp does not load {path}")
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.size = self.lib.llama_vocab_n_tokens(self.vocab)
        params = self.lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = length
        params.n_threads = params.n_threads_batch = threads
        # Attention in float32, which by default keeps keys and values as F16: what is left is the file's own doing.
        params.type_k = params.type_v = params.flash_attn_type = 0  # GGML_TYPE_F32, LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = self.lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise Unfit(f"llama.cpp cannot run {path} on {length} tokens")
        self.batch = self.lib.llama_batch_init(length, 0, 1)

    def tokenize(self, text):
        """Ids, with BOS in front where the file says so; special tokens' names become their ids."""
        data = text.encode()
        out = (ctypes.c_int32 * (len(data) + 8))()
        n = self.lib.llama_tokenize(self.vocab, data, len(data), out, len(out), True, True)
        if n < 0:
            raise Unfit(f"llama.cpp makes {-n} tokens of {len(data)} bytes")
        return list(out[:n])

    def text(self, ids):
        out = ctypes.create_string_buffer(64 * len(ids) + 64)
        n = self.lib.llama_detokenize(self.vocab, (ctypes.c_int32 * len(ids))(*ids), len(ids), out, len(out), False, True)
        return out.raw[:max(n, 0)].decode("utf-8", "replace")

    def logits(self, ids, begin=0):
        """A row of float32, as bytes, for each of the tokens at positions begin, begin + 1, …; 0 forgets what was before."""
        if begin == 0:
            self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        self.batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, begin + i, 1
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, 0
        status = self.lib.llama_decode(self.context, self.batch)
        if status != 0:
            raise Unfit(f"llama_decode of {len(ids)} tokens from position {begin} on: {status}")
        return [ctypes.string_at(self.lib.llama_get_logits_ith(self.context, i), 4 * self.size) for i in range(len(ids))]


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install")
    for command, data in (("tokenize", "texts"), ("logits", "windows"), ("generate", "prompt")):
        sub = commands.add_parser(command)
        sub.add_argument("model")
        sub.add_argument(data, type=lambda path: json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
        if command == "logits":
            sub.add_argument("out")
        if command == "generate":
            sub.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args(arguments)
    try:
        if options.command == "install":
            result = {"library": str(install())}
        elif options.command == "tokenize":
            model = Model(options.model, 32, options.threads)
            result = {"tokens": [model.tokenize(text) for text in options.texts]}
        elif options.command == "logits":
            model = Model(options.model, max(map(len, options.windows)), options.threads)
            with open(options.out, "wb") as out:
                for window in options.windows:
                    out.writelines(model.logits(window))
            result = {"rows": sum(map(len, options.windows)), "vocabulary": model.size}
        else:
            ids = list(options.prompt)
            model = Model(options.model, len(ids) + options.tokens, options.threads)
            row = model.logits(ids)[-1]
            for _ in range(options.tokens):
                values = array.array("f", row)
                ids.append(values.index(max(values)))
                row = model.logits(ids[-1:], len(ids) - 1)[0]
            result = {"tokens": ids[len(options.prompt):], "text": model.text(ids)}
    except Missing as error:
        print(error, file=sys.stderr)
        return 3
    except Unfit as error:
        print(error, file=sys.stderr)
        return 1
    json.dump(result, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
