#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Peak memory and speed on a checkpoint of 7B shape (random bfloat16 weights, 13.5 GB): RTN and NF4 of all of it, and
GPTQ of its first two blocks with 16 x 512 tokens. The job's process is run by itself, without service and uploads.

  ./dev bench memory [rtn|nf4|gptq …]
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

from models import TOP, machine

HIDDEN, WIDE, LAYERS, HEADS, VOCAB = 4096, 11008, 32, 32, 32000
WORKER = pathlib.Path(os.environ.get("QUANT_BIN", TOP / "build" / "release" / "bin")) / "quant-worker"
NEEDED = 24 << 30  # the checkpoint, a 4-bit copy, and room to breathe


def shapes(layers):
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(layers):
        p = f"model.layers.{i}."
        for n in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield p + f"self_attn.{n}.weight", (HIDDEN, HIDDEN)
        for n in ("gate_proj", "up_proj"):
            yield p + f"mlp.{n}.weight", (WIDE, HIDDEN)
        yield p + "mlp.down_proj.weight", (HIDDEN, WIDE)
        yield p + "input_layernorm.weight", (HIDDEN,)
        yield p + "post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def generate(folder, layers):
    """Writes the checkpoint in files of at most 4 GB; the same 64 MB of normal numbers over and over, from other places."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "max_position_embeddings": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}))
    pool = (np.random.default_rng(1).standard_normal(1 << 25, dtype=np.float32) * 0.02).view(np.uint32)
    pool = np.concatenate([(pool >> 16).astype("<u2")] * 2)
    files, size = [[]], 0
    for name, shape in shapes(layers):
        n = 2 * int(np.prod(shape))
        if size + n > 4 << 30:
            files.append([])
            size = 0
        files[-1].append((name, shape))
        size += n
    where = {}
    for i, names in enumerate(files):
        file = f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in names:
            n = 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
            where[name] = file
            at += n
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for k, (name, shape) in enumerate(names):
                left, start = int(np.prod(shape)), (k * 7919) % (1 << 25)
                while left > 0:
                    n = min(left, 1 << 25)
                    out.write(pool[start:start + n].tobytes())
                    left -= n
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def disk_speed(folder):
    """Bytes per second of reading the checkpoint from the page cache or disk, as it comes."""
    begin, total = time.monotonic(), 0
    for file in sorted(folder.glob("*.safetensors"))[:1]:
        with open(file, "rb", buffering=0) as f:
            while chunk := f.read(1 << 24):
                total += len(chunk)
    return total / (time.monotonic() - begin)


def run(work, checkpoint, name, recipe, calibration=None):
    """Runs a job's process on the checkpoint; returns its report, seconds and peak resident bytes."""
    folder = work / name
    for part in ("baseline", "evaluation", "output", "resume"):
        (folder / part).mkdir(parents=True)
    (folder / "model").mkdir()
    for f in checkpoint.iterdir():
        os.link(f, folder / "model" / f.name)
    (folder / "calibration").mkdir()
    lease = f'job {{ id: "j-bench" spec {{ quantize {{ model_id: "m" recipe {{ {recipe} }} }} }} }} token: 1 model {{ id: "m" digest: "x" }}'
    if calibration is not None:
        np.save(folder / "calibration" / "tokens.npy", calibration)
        lease += ' calibration_dataset { id: "d" digest: "y" }'
    with open(folder / "lease.pb", "wb") as out:
        subprocess.run(["protoc", "-I", TOP / "proto", "--encode=quant.v1.Lease", "quant/v1/workers.proto"], input=lease.encode(),
                       stdout=out, check=True, cwd=TOP / "proto")
    begin = time.monotonic()
    child = subprocess.Popen([WORKER, "--run-job", folder, "--threads", "2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - begin
    text = subprocess.run(["protoc", "-I", TOP / "proto", "--decode=quant.v1.CompleteJobRequest", "quant/v1/workers.proto"],
                          input=(folder / "outcome.pb").read_bytes() if (folder / "outcome.pb").exists() else b"",
                          capture_output=True, cwd=TOP / "proto", check=False).stdout.decode(errors="replace")
    if status != 0 or "failure {" in text:
        sys.exit(f"bench: the job failed (status {status}): {text[:2000]}\n{output.decode(errors='replace')[-2000:]}")
    written = sum(f.stat().st_size for f in (folder / "output").rglob("*") if f.is_file())
    shutil.rmtree(folder)
    return seconds, usage.ru_maxrss * 1024, written


def main():
    wanted = sys.argv[1:] or ["rtn", "nf4", "gptq"]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as place:
        work = pathlib.Path(place)
        free = shutil.disk_usage(work).free
        if free < NEEDED:
            print(f"skipped: {work} has {free >> 30} GiB free, {NEEDED >> 30} are needed")
            return
        print(f"Machine: {machine()}, 2 threads\n")
        print("| what | read, GB | seconds | MB/s read | written, GB | peak resident, GB | limit |")
        print("|---|---|---|---|---|---|---|")
        checkpoint = work / "7b"
        generate(checkpoint, LAYERS)
        total = sum(f.stat().st_size for f in checkpoint.iterdir())
        speed = disk_speed(checkpoint)
        print(f"| reading the files alone | | | {speed / 1e6:.0f} | | | |", flush=True)
        for name, recipe, limit in (("rtn", "rtn { grid { scale_search: SCALE_SEARCH_MIN_MAX } }", 3), ("nf4", "nf4 { }", 3)):
            if name not in wanted:
                continue
            seconds, peak, written = run(work, checkpoint, name, recipe)
            print(f"| {name}, 32 blocks | {total / 1e9:.1f} | {seconds:.0f} | {total / 1e6 / seconds:.0f} | {written / 1e9:.1f} | "
                  f"{peak / 1e9:.2f} | {limit} |", flush=True)
        shutil.rmtree(checkpoint)
        if "gptq" in wanted:
            generate(checkpoint, 2)
            total = sum(f.stat().st_size for f in checkpoint.iterdir())
            tokens = np.random.default_rng(2).integers(0, VOCAB, [16, 512]).astype(np.int32)
            seconds, peak, written = run(work, checkpoint, "gptq", "gptq { } evaluation { latency_runs: -1 }", tokens)
            print(f"| gptq, 2 blocks, 16 x 512 tokens | {total / 1e9:.1f} | {seconds:.0f} | | {written / 1e9:.1f} | {peak / 1e9:.2f} | 5 |",
                  flush=True)


if __name__ == "__main__":
    main()
