# SPDX-License-Identifier: Apache-2.0
"""Language models in NumPy and float64, written from the papers and the meaning of config.json's keys, to judge what
worker/formats/huggingface builds. Shares nothing with it. Plain loops over heads and queries; small inputs only.

    logits = forward(config, tensors, tokens)      # tokens int [batch, sequence] -> float64 [batch, sequence, vocab]
"""
import math

import numpy as np


def erf(x):
    # Abramowitz and Stegun 7.1.5 for small arguments, the continued fraction 7.1.14 for large ones.
    x = np.asarray(x, np.float64)
    small, series, term = np.clip(x, -3, 3), np.zeros_like(x), np.clip(x, -3, 3).copy()
    for n in range(60):
        series += term / (2 * n + 1)
        term = -term * small * small / (n + 1)
    large, fraction = np.maximum(np.abs(x), 3), np.zeros_like(x)
    for n in range(60, 0, -1):
        fraction = (n / 2) / (large + fraction)
    tail = np.exp(-large * large) / math.sqrt(math.pi) / (large + fraction)
    return np.where(np.abs(x) < 3, series * 2 / math.sqrt(math.pi), np.sign(x) * (1 - tail))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
ACTIVATIONS["gelu_pytorch_tanh"] = ACTIVATIONS["gelu_new"]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps) * weight + bias


def attention(q, k, v, scale, window=None, cap=None):
    """q [heads, n, d], k and v [kv_heads, n, d] -> [n, heads * d]; query i sees keys j <= i, the last `window` of them."""
    heads, n, _ = q.shape
    out = []
    for h in range(heads):
        kv = h // (heads // k.shape[0])
        rows = []
        for i in range(n):
            first = 0 if window is None else max(0, i - window + 1)
            scores = k[kv, first:i + 1] @ q[h, i] * scale
            if cap is not None:
                scores = cap * np.tanh(scores / cap)
            rows.append(softmax(scores) @ v[kv, first:i + 1])
        out.append(np.stack(rows))
    return np.concatenate(out, axis=-1)


def frequencies(config, dim, length):
    """The rotary frequencies [dim / 2] for inputs of `length` tokens, and the factor on cos and sin."""
    s = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta = s.get("rope_theta", config.get("rope_theta", 10000.0))
    base = np.array([1 / theta**(2 * i / dim) for i in range(dim // 2)])
    kind = s.get("rope_type", s.get("type", "default"))
    trained = s.get("original_max_position_embeddings",
                    config.get("original_max_position_embeddings", config.get("max_position_embeddings")))
    if kind == "default":
        return base, 1.0
    if kind == "linear":
        return base / s["factor"], 1.0
    if kind == "dynamic":
        n = max(length, trained)
        theta *= (s["factor"] * n / trained - (s["factor"] - 1))**(dim / (dim - 2))
        return np.array([1 / theta**(2 * i / dim) for i in range(dim // 2)]), 1.0
    if kind == "llama3":
        out = []
        for f in base:
            wave = 2 * math.pi / f
            if wave < trained / s["high_freq_factor"]:
                out.append(f)
            elif wave > trained / s["low_freq_factor"]:
                out.append(f / s["factor"])
            else:
                smooth = (trained / wave - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
                out.append((1 - smooth) * f / s["factor"] + smooth * f)
        return np.array(out), 1.0
    if kind == "yarn":
        def where(rotations):
            return dim * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(theta))
        low = max(math.floor(where(s.get("beta_fast", 32))), 0)
        high = min(math.ceil(where(s.get("beta_slow", 1))), dim - 1)
        if low == high:
            high += 0.001
        keep = 1 - np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
        return base / s["factor"] * (1 - keep) + base * keep, s.get("attention_factor", 0.1 * math.log(s["factor"]) + 1)
    if kind == "longrope":
        factor = config["max_position_embeddings"] / trained
        divisors = s["long_factor"] if length > trained else s["short_factor"]
        return base / np.array(divisors), s.get("attention_factor", math.sqrt(1 + math.log(factor) / math.log(trained)))
    raise ValueError(kind)


def rotate(x, freqs, factor):
    """x [heads, n, d]: pairs (i, i + r/2) of the first r = 2 len(freqs) features turn by position * freqs[i]."""
    half = len(freqs)
    angle = np.arange(x.shape[1])[:, None] * freqs[None, :]
    c, s = np.cos(angle) * factor, np.sin(angle) * factor
    a, b = x[..., :half], x[..., half:2 * half]
    return np.concatenate([a * c - b * s, b * c + a * s, x[..., 2 * half:]], axis=-1)


class Model:
    def __init__(self, config, tensors):
        self.config, self.t = config, tensors

    def linear(self, name, x):
        bias = self.t.get(name + ".bias", 0.0)
        return x @ self.t[name + ".weight"].T + bias

    def heads(self, x, count):
        return x.reshape(x.shape[0], count, -1).transpose(1, 0, 2)

    def head(self, x, embedding):
        return x @ (self.t["lm_head.weight"] if "lm_head.weight" in self.t else self.t[embedding]).T


class Llama(Model):
    """llama, mistral, qwen2, qwen3, gemma, gemma2, phi3, mixtral, qwen2_moe; one sequence at a time."""

    def norm(self, name, x):
        weight = self.t[name + ".weight"]
        if self.config["model_type"].startswith("gemma"):
            weight = 1 + weight
        return rms(x, weight, self.config["rms_norm_eps"])

    def act(self, x):
        gemma = self.config["model_type"].startswith("gemma")
        return ACTIVATIONS["gelu_pytorch_tanh" if gemma else self.config["hidden_act"]](x)

    def window(self, layer):
        c = self.config
        kind = c["model_type"]
        if kind in ("mistral", "mixtral", "phi3") or (kind == "gemma2" and layer % 2 == 0):
            return c.get("sliding_window")
        if kind in ("qwen2", "qwen3", "qwen2_moe") and c.get("use_sliding_window") and layer >= c["max_window_layers"]:
            return c["sliding_window"]
        return None

    def attend(self, layer, p, x):
        c = self.config
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        d = c.get("head_dim", c["hidden_size"] // heads)
        if c["model_type"] == "phi3":
            fused = self.linear(p + "qkv_proj", x)
            q, k, v = np.split(fused, [heads * d, (heads + kv) * d], axis=-1)
        else:
            q, k, v = (self.linear(p + n, x) for n in ("q_proj", "k_proj", "v_proj"))
        q, k, v = self.heads(q, heads), self.heads(k, kv), self.heads(v, kv)
        if c["model_type"] == "qwen3":
            q, k = self.norm(p + "q_norm", q), self.norm(p + "k_norm", k)
        freqs, factor = frequencies(c, int(d * c.get("partial_rotary_factor", 1)), x.shape[0])
        q, k = rotate(q, freqs, factor), rotate(k, freqs, factor)
        scale = c.get("query_pre_attn_scalar", d)**-0.5
        return self.linear(p + "o_proj",
                           attention(q, k, v, scale, self.window(layer), c.get("attn_logit_softcapping")))

    def gated(self, p, x, names=("gate_proj", "up_proj", "down_proj")):
        gate, up, down = names
        return self.linear(p + down, self.act(self.linear(p + gate, x)) * self.linear(p + up, x))

    def experts(self, p, x, count, top, normalize, names):
        shares = softmax(self.linear(p + "gate", x))
        out = np.zeros_like(x)
        for i in range(x.shape[0]):  # each token on its own, only through the experts it chose
            chosen = np.argsort(-shares[i])[:top]
            total = shares[i][chosen].sum() if normalize else 1.0
            for e in chosen:
                out[i] += shares[i][e] / total * self.gated(f"{p}experts.{e}.", x[i:i + 1], names)[0]
        return out

    def mlp(self, layer, p, x):
        c = self.config
        if c["model_type"] == "phi3":
            gate, up = np.split(self.linear(p + "mlp.gate_up_proj", x), 2, axis=-1)
            return self.linear(p + "mlp.down_proj", self.act(gate) * up)
        if c["model_type"] == "mixtral":
            return self.experts(p + "block_sparse_moe.", x, c["num_local_experts"], c["num_experts_per_tok"], True,
                                ("w1", "w3", "w2"))
        if c["model_type"] == "qwen2_moe" and layer not in c["mlp_only_layers"]:
            routed = self.experts(p + "mlp.", x, c["num_experts"], c["num_experts_per_tok"], c["norm_topk_prob"],
                                  ("gate_proj", "up_proj", "down_proj"))
            gate = 1 / (1 + np.exp(-self.linear(p + "mlp.shared_expert_gate", x)))
            return routed + gate * self.gated(p + "mlp.shared_expert.", x)
        return self.gated(p + "mlp.", x)

    def sequence(self, tokens):
        c = self.config
        base = "model." if "model.embed_tokens.weight" in self.t else ""
        x = self.t[base + "embed_tokens.weight"][tokens]
        if c["model_type"].startswith("gemma"):
            x = x * math.sqrt(c["hidden_size"])
        for layer in range(c["num_hidden_layers"]):
            p = f"{base}layers.{layer}."
            a = self.attend(layer, p + "self_attn.", self.norm(p + "input_layernorm", x))
            if c["model_type"] == "gemma2":
                x = x + self.norm(p + "post_attention_layernorm", a)
                m = self.mlp(layer, p, self.norm(p + "pre_feedforward_layernorm", x))
                x = x + self.norm(p + "post_feedforward_layernorm", m)
            else:
                x = x + a
                x = x + self.mlp(layer, p, self.norm(p + "post_attention_layernorm", x))
        logits = self.head(self.norm(base + "norm", x), base + "embed_tokens.weight")
        cap = c.get("final_logit_softcapping")
        return logits if cap is None else cap * np.tanh(logits / cap)


class Gpt2(Model):
    def conv1d(self, name, x):
        return x @ self.t[name + ".weight"] + self.t[name + ".bias"]

    def sequence(self, tokens):
        c = self.config
        base = "transformer." if "transformer.wte.weight" in self.t else ""
        x = self.t[base + "wte.weight"][tokens] + self.t[base + "wpe.weight"][:len(tokens)]

        def norm(name, v):
            return layer_norm(v, self.t[name + ".weight"], self.t[name + ".bias"], c["layer_norm_epsilon"])

        for layer in range(c["n_layer"]):
            p = f"{base}h.{layer}."
            q, k, v = (self.heads(part, c["n_head"]) for part in
                       np.split(self.conv1d(p + "attn.c_attn", norm(p + "ln_1", x)), 3, axis=-1))
            scale = (c["n_embd"] // c["n_head"])**-0.5
            if c.get("scale_attn_by_inverse_layer_idx"):
                scale /= layer + 1
            x = x + self.conv1d(p + "attn.c_proj", attention(q, k, v, scale))
            wide = self.conv1d(p + "mlp.c_fc", norm(p + "ln_2", x))
            x = x + self.conv1d(p + "mlp.c_proj", ACTIVATIONS[c["activation_function"]](wide))
        return self.head(norm(base + "ln_f", x), base + "wte.weight")


class Opt(Model):
    def sequence(self, tokens):
        c = self.config
        base = "model.decoder." if "model.decoder.embed_tokens.weight" in self.t else "decoder."
        before = c["do_layer_norm_before"]
        x = self.t[base + "embed_tokens.weight"][tokens]
        if base + "project_in.weight" in self.t:
            x = self.linear(base + "project_in", x)
        x = x + self.t[base + "embed_positions.weight"][2:2 + len(tokens)]

        def norm(name, v):
            return layer_norm(v, self.t[name + ".weight"], self.t[name + ".bias"], 1e-5)

        for layer in range(c["num_hidden_layers"]):
            p = f"{base}layers.{layer}."
            u = norm(p + "self_attn_layer_norm", x) if before else x
            q, k, v = (self.heads(self.linear(p + "self_attn." + n, u), c["num_attention_heads"])
                       for n in ("q_proj", "k_proj", "v_proj"))
            x = x + self.linear(p + "self_attn.out_proj", attention(q, k, v, q.shape[-1]**-0.5))
            if not before:
                x = norm(p + "self_attn_layer_norm", x)
            u = norm(p + "final_layer_norm", x) if before else x
            x = x + self.linear(p + "fc2", ACTIVATIONS[c["activation_function"]](self.linear(p + "fc1", u)))
            if not before:
                x = norm(p + "final_layer_norm", x)
        if before:
            x = norm(base + "final_layer_norm", x)
        if base + "project_out.weight" in self.t:
            x = self.linear(base + "project_out", x)
        return self.head(x, base + "embed_tokens.weight")


def forward(config, tensors, tokens):
    model = {"gpt2": Gpt2, "opt": Opt}.get(config["model_type"], Llama)(
        config, {name: np.asarray(t, np.float64) for name, t in tensors.items()})
    return np.stack([model.sequence(row) for row in tokens])
