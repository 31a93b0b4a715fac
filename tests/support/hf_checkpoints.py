# SPDX-License-Identifier: Apache-2.0
"""Tiny random checkpoints of every architecture, on disk as Transformers writes them. Fixed seeds: the same bytes always.

    for case in CASES: config, tensors = case.make(folder)   # tensors: what the stored ones hold, as float64

Sizes are awkward on purpose: hidden 64, intermediate 172, grouped-query attention, windows shorter than the inputs.
"""
import dataclasses
import json
import struct
import zlib

import numpy as np

VOCAB, HIDDEN, WIDE = 96, 64, 172


def write_safetensors(file, tensors, dtype):
    """tensors: name -> array, stored as F32, F16 or BF16; returns what was stored, as float64."""
    header, blobs, stored, at = {}, [], {}, 0
    for name, array in tensors.items():
        x = np.asarray(array, np.float32)
        if dtype == "F16":
            blob, x = x.astype("<f2").tobytes(), x.astype(np.float16)
        elif dtype == "BF16":  # the upper half of a float32, truncated: any value will do here
            bits = (x.view(np.uint32) >> 16).astype(np.uint16)
            blob, x = bits.astype("<u2").tobytes(), (bits.astype(np.uint32) << 16).view(np.float32)
        else:
            blob = x.astype("<f4").tobytes()
        stored[name] = x.astype(np.float64)
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return stored


@dataclasses.dataclass
class Case:
    name: str
    config: dict
    shapes: dict  # name -> shape
    dtype: str = "F32"
    files: int = 1

    def make(self, folder):
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        tensors = {}
        for name, shape in self.shapes.items():
            x = rng.standard_normal(shape)
            if len(shape) == 1:  # biases, and the weights of norms: around 1, or around 0 for Gemma
                is_scale = name.endswith(".weight") and not self.config["model_type"].startswith("gemma")
                x = x * 0.2 + (1 if is_scale else 0)
            elif "embed" not in name and "wte" not in name and "wpe" not in name:
                x *= 1.5 / np.sqrt(max(shape))
            tensors[name] = x
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(self.config))
        if self.files == 1:
            return self.config, write_safetensors(folder / "model.safetensors", tensors, self.dtype)
        stored, index = {}, {}
        for i in range(self.files):
            file = f"model-{i + 1:05d}-of-{self.files:05d}.safetensors"
            part = {n: t for j, (n, t) in enumerate(tensors.items()) if j % self.files == i}
            stored.update(write_safetensors(folder / file, part, self.dtype))
            index.update({n: file for n in part})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        return self.config, stored


def llama_shapes(config, base="model.", biases=(), gated=None, norms=("input_layernorm", "post_attention_layernorm"),
                 qk_norm=False, fused=False, tied=True):
    h, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    d, wide = config.get("head_dim", h // heads), config["intermediate_size"]
    shapes = {base + "embed_tokens.weight": (VOCAB, h), base + "norm.weight": (h,)}
    for layer in range(config["num_hidden_layers"]):
        p = f"{base}layers.{layer}."
        for n in norms:
            shapes[p + n + ".weight"] = (h,)
        if fused:
            linears = {"self_attn.qkv_proj": ((heads + 2 * kv) * d, h), "self_attn.o_proj": (h, heads * d),
                       "mlp.gate_up_proj": (2 * wide, h), "mlp.down_proj": (h, wide)}
        else:
            linears = {"self_attn.q_proj": (heads * d, h), "self_attn.k_proj": (kv * d, h),
                       "self_attn.v_proj": (kv * d, h), "self_attn.o_proj": (h, heads * d)}
            linears.update(gated(layer) if gated else mlp("mlp", h, wide))
        if qk_norm:
            shapes[p + "self_attn.q_norm.weight"] = shapes[p + "self_attn.k_norm.weight"] = (d,)
        for n, shape in linears.items():
            shapes[p + n + ".weight"] = shape
            if n.split(".")[-1] in biases:
                shapes[p + n + ".bias"] = shape[:1]
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, h)
    return shapes


def mlp(name, hidden, wide, names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = names
    return {f"{name}.{gate}": (wide, hidden), f"{name}.{up}": (wide, hidden), f"{name}.{down}": (hidden, wide)}


def config(model_type, **more):
    return {"model_type": model_type, "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": WIDE,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
            "max_position_embeddings": 64, "rms_norm_eps": 1e-2, "tie_word_embeddings": True, **more}


def scaled(name, **scaling):
    c = config("llama", max_position_embeddings=scaling.pop("positions", 64), rope_theta=500.0, rope_scaling=scaling)
    return Case(name, c, llama_shapes(c))


def experts(base, gate, names, count, wide):
    shapes = {gate: (count, HIDDEN)}
    for e in range(count):
        shapes.update(mlp(f"{base}.experts.{e}", HIDDEN, wide, names))
    return shapes


def cases():
    c = config("llama")
    yield Case("llama", c, llama_shapes(c), dtype="BF16")
    c = config("llama", attention_bias=True, mlp_bias=True, head_dim=24, tie_word_embeddings=False)
    everything = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    yield Case("llama_biases_sharded", c, llama_shapes(c, base="", biases=everything, tied=False), dtype="F16", files=3)
    yield scaled("rope_linear", type="linear", factor=4.0)
    yield scaled("rope_dynamic", type="dynamic", factor=2.0, positions=8)  # inputs are longer
    yield scaled("rope_llama3", rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                 original_max_position_embeddings=32)
    yield scaled("rope_yarn", rope_type="yarn", factor=4.0, beta_fast=4.0, beta_slow=1.0,
                 original_max_position_embeddings=16)
    c = config("mistral", sliding_window=5, num_key_value_heads=1)
    yield Case("mistral", c, llama_shapes(c))
    c = config("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1, tie_word_embeddings=False)
    yield Case("qwen2", c, llama_shapes(c, biases=("q_proj", "k_proj", "v_proj"), tied=False), dtype="BF16")
    c = config("qwen3", head_dim=32)
    yield Case("qwen3", c, llama_shapes(c, qk_norm=True))
    c = config("gemma", hidden_act="gelu", head_dim=32, num_key_value_heads=1)
    yield Case("gemma", c, llama_shapes(c), dtype="F16")
    c = config("gemma2", head_dim=32, sliding_window=5, query_pre_attn_scalar=20, attn_logit_softcapping=1.5,
               final_logit_softcapping=4.0)
    yield Case("gemma2", c, llama_shapes(c, norms=("input_layernorm", "post_attention_layernorm",
                                                   "pre_feedforward_layernorm", "post_feedforward_layernorm")))
    c = config("phi3", sliding_window=7, tie_word_embeddings=False)
    yield Case("phi3", c, llama_shapes(c, fused=True, tied=False), dtype="BF16")
    for name, trained in (("phi3_long", 8), ("phi3_short", 32)):
        c = config("phi3", original_max_position_embeddings=trained, partial_rotary_factor=0.75, sliding_window=None,
                   rope_scaling={"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.5, 1.7, 2.0],
                                 "long_factor": [1.0, 1.5, 2.5, 4.0, 6.0, 8.0]})
        yield Case(name, c, llama_shapes(c, fused=True))
    c = config("mixtral", num_local_experts=5, num_experts_per_tok=2, sliding_window=6)
    yield Case("mixtral", c, llama_shapes(c, gated=lambda _: experts(
        "block_sparse_moe", "block_sparse_moe.gate", ("w1", "w3", "w2"), 5, WIDE)))
    for name, normalize in (("qwen2_moe", False), ("qwen2_moe_normalized", True)):
        c = config("qwen2_moe", num_experts=6, num_experts_per_tok=3, moe_intermediate_size=40,
                   shared_expert_intermediate_size=72, norm_topk_prob=normalize, decoder_sparse_step=1,
                   mlp_only_layers=[0])
        yield Case(name, c, llama_shapes(
            c, biases=("q_proj", "k_proj", "v_proj"),
            gated=lambda layer: mlp("mlp", HIDDEN, WIDE) if layer == 0 else {
                **experts("mlp", "mlp.gate", ("gate_proj", "up_proj", "down_proj"), 6, 40),
                **mlp("mlp.shared_expert", HIDDEN, 72), "mlp.shared_expert_gate": (1, HIDDEN)}))
    yield gpt2("gpt2", "transformer.", "BF16")
    yield gpt2("gpt2_by_layer", "", "F32", scale_attn_by_inverse_layer_idx=True, n_inner=WIDE)
    yield opt("opt", "model.decoder.", True, HIDDEN)
    yield opt("opt_post_norm", "decoder.", False, 40)


def gpt2(name, base, dtype, **more):
    c = {"model_type": "gpt2", "vocab_size": VOCAB, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 32,
         "layer_norm_epsilon": 1e-2, "activation_function": "gelu_new", **more}
    wide = c.get("n_inner") or 4 * HIDDEN
    shapes = {base + "wte.weight": (VOCAB, HIDDEN), base + "wpe.weight": (32, HIDDEN)}
    norms = [base + "ln_f"]
    for layer in range(2):
        p = f"{base}h.{layer}."
        norms += [p + "ln_1", p + "ln_2"]
        shapes[p + "attn.bias"] = (1, 1, 32, 32)  # the mask that old checkpoints hold
        for n, (k, out) in {"attn.c_attn": (HIDDEN, 3 * HIDDEN), "attn.c_proj": (HIDDEN, HIDDEN),
                            "mlp.c_fc": (HIDDEN, wide), "mlp.c_proj": (wide, HIDDEN)}.items():
            shapes[p + n + ".weight"], shapes[p + n + ".bias"] = (k, out), (out,)
    for n in norms:
        shapes[n + ".weight"] = shapes[n + ".bias"] = (HIDDEN,)
    return Case(name, c, shapes, dtype)


def opt(name, base, before, embedding):
    c = {"model_type": "opt", "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 2,
         "num_attention_heads": 4, "ffn_dim": WIDE, "max_position_embeddings": 32, "activation_function": "relu",
         "do_layer_norm_before": before, "word_embed_proj_dim": embedding}
    shapes = {base + "embed_tokens.weight": (VOCAB, embedding), base + "embed_positions.weight": (34, HIDDEN)}
    norms = [base + "final_layer_norm"] if before else []
    if embedding != HIDDEN:
        shapes[base + "project_in.weight"] = (HIDDEN, embedding)
        shapes[base + "project_out.weight"] = (embedding, HIDDEN)
    for layer in range(2):
        p = f"{base}layers.{layer}."
        norms += [p + "self_attn_layer_norm", p + "final_layer_norm"]
        for n, shape in {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN, HIDDEN),
                         "self_attn.v_proj": (HIDDEN, HIDDEN), "self_attn.out_proj": (HIDDEN, HIDDEN),
                         "fc1": (WIDE, HIDDEN), "fc2": (HIDDEN, WIDE)}.items():
            shapes[p + n + ".weight"], shapes[p + n + ".bias"] = shape, shape[:1]
    for n in norms:
        shapes[n + ".weight"] = shapes[n + ".bias"] = (HIDDEN,)
    return Case(name, c, shapes)


CASES = list(cases())
