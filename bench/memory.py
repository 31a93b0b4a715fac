#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Peak memory and speed on a checkpoint of 7B shape (random bfloat16 weights, 13.5 GB): RTN and NF4 of all of it, and
GPTQ of its first two blocks with 16 x 512 tokens. The job's process is run by itself, without service and uploads, and
compared with the slower of two things measured in the same run:

  the disk    reading the checkpoint (from the page cache where that holds it) and then writing the result with fsync
  the codec   bench/codec.cc: converting, quantizing and packing in memory, on as many threads

  ./dev bench memory [rtn|rtn-search|nf4|gptq …] [--blocks 32] [--threads 2]
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

from models import TOP, machine

HIDDEN, WIDE, LAYERS, HEADS, VOCAB = 4096, 11008, 32, 32, 32000
BIN = pathlib.Path(os.environ.get("QUANT_BIN", TOP / "build" / "release" / "bin"))
SPARE = 8 << 30  # on the disk beside the checkpoint: a 4-bit copy, and room to breathe
ENVIRONMENT = {"GOMP_SPINCOUNT": "1500", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as the agent sets it
# Recipe and limit of the peak resident set in GB.
METHODS = {
    "rtn": ("rtn { grid { scale_search: SCALE_SEARCH_MIN_MAX } }", 3),
    "rtn-search": ("rtn { }", 3),
    "nf4": ("nf4 { }", 3),
}
GPTQ = ("gptq { } evaluation { latency_runs: -1 }", 5)


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


def disk_speed(folder, work):
    """Bytes per second of reading the checkpoint as it comes (what of it is in the page cache, from there), and of
    writing 2 GB with fsync."""
    for file in folder.iterdir():
        with open(file, "rb") as f:
            os.fsync(f.fileno())  # or else writing it would go on beside what is measured
    begin, total = time.monotonic(), 0
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb", buffering=0) as f:
            while chunk := f.read(1 << 24):
                total += len(chunk)
    read = total / (time.monotonic() - begin)
    chunk = os.urandom(1 << 24)
    begin = time.monotonic()
    with open(work / "written", "wb", buffering=0) as f:
        for _ in range(128):
            f.write(chunk)
        os.fsync(f.fileno())
    write = 128 * len(chunk) / (time.monotonic() - begin)
    (work / "written").unlink()
    return read, write


def codec_speed(method, threads):
    """Bytes of bfloat16 per second."""
    out = json.loads(subprocess.run([BIN / "codec_bench", method, "--threads", str(threads)], stdout=subprocess.PIPE, check=True).stdout)
    return out["bytes"] / out["seconds"]


def run(work, checkpoint, name, recipe, threads, calibration=None):
    """Runs a job's process on the checkpoint; returns its seconds, those of its phases as text, its peak resident bytes
    and the bytes it wrote."""
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
    child = subprocess.Popen([BIN / "quant-worker", "--run-job", folder, "--threads", str(threads)], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, env=ENVIRONMENT | os.environ)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - begin
    text = subprocess.run(["protoc", "-I", TOP / "proto", "--decode=quant.v1.CompleteJobRequest", "quant/v1/workers.proto"],
                          input=(folder / "work/outcome.pb").read_bytes() if (folder / "work/outcome.pb").exists() else b"",
                          capture_output=True, cwd=TOP / "proto", check=False).stdout.decode(errors="replace")
    if status != 0 or "failure {" in text:
        sys.exit(f"bench: the job failed (status {status}): {text[:2000]}\n{output.decode(errors='replace')[-2000:]}")
    phases = ", ".join(f"{phase} {float(s):.1f}" for phase, s in re.findall(r'phases \{\s*name: "(\w+)"\s*seconds: (\S+)', text))
    written = sum(f.stat().st_size for f in (folder / "output").rglob("*") if f.is_file())
    shutil.rmtree(folder)
    return seconds, phases, usage.ru_maxrss * 1024, written


def main():
    parser = argparse.ArgumentParser(prog="memory")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*METHODS, "gptq"]))
    parser.add_argument("--blocks", type=int, default=LAYERS, help="decoder blocks of the model (a 7B one has 32)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    names = options.names or ["rtn", "nf4", "gptq"]
    if unknown := [n for n in names if n not in [*METHODS, "gptq"]]:
        parser.error(f"no measurement {unknown[0]}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as place:
        work = pathlib.Path(place)
        free, needed = shutil.disk_usage(work).free, SPARE + 2 * sum(int(np.prod(s)) for _, s in shapes(options.blocks))
        if free < needed:
            print(f"skipped: {work} has {free >> 30} GiB free, {(needed >> 30) + 1} are needed")
            return
        print(f"Machine: {machine()}, {options.threads} threads\n")
        checkpoint = work / "7b"
        if any(n in METHODS for n in names):
            generate(checkpoint, options.blocks)
            total = sum(f.stat().st_size for f in checkpoint.iterdir())
            read, write = disk_speed(checkpoint, work)
            print(f"Disk: reads {read / 1e6:.0f} MB/s, writes {write / 1e6:.0f} MB/s with fsync. Speeds are MB/s of the checkpoint read.\n")
            print("| what | read, GB | written, GB | seconds (phases) | speed | disk's | codec's | share of the lower | peak resident, GB | limit |")
            print("|---|---|---|---|---|---|---|---|---|---|")
            for name in (n for n in METHODS if n in names):
                recipe, limit = METHODS[name]
                codec = codec_speed(name, options.threads)
                seconds, phases, peak, written = run(work, checkpoint, name, recipe, options.threads)
                speed, disk = total / seconds, total / (total / read + written / write)
                print(f"| {name}, {options.blocks} blocks | {total / 1e9:.1f} | {written / 1e9:.1f} | {seconds:.1f} ({phases}) | "
                      f"{speed / 1e6:.0f} | {disk / 1e6:.0f} | {codec / 1e6:.0f} | {100 * speed / min(disk, codec):.0f} % | {peak / 1e9:.2f} | {limit} |",
                      flush=True)
            shutil.rmtree(checkpoint)
        if "gptq" in names:
            recipe, limit = GPTQ
            generate(checkpoint, 2)
            tokens = np.random.default_rng(2).integers(0, VOCAB, [16, 512]).astype(np.int32)
            seconds, phases, peak, _ = run(work, checkpoint, "gptq", recipe, options.threads, tokens)
            print("\n| what | seconds (phases) | peak resident, GB | limit |\n|---|---|---|---|")
            print(f"| gptq, 2 blocks, 16 x 512 tokens | {seconds:.1f} ({phases}) | {peak / 1e9:.2f} | {limit} |", flush=True)


if __name__ == "__main__":
    main()
