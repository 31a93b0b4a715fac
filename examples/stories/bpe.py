#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the byte-level BPE of the "stories" example and writes it as a Hugging Face tokenizer.json.

Its form is that of Llama 3: a Split by the pattern below, ByteLevel's letters for bytes, merges tried in the order they
were learnt (Sennrich et al. 2016), a begin-of-text token in front. Only the standard library is needed. Ties between
equally frequent pairs go to the smaller pair of tokens, so the result is the same everywhere.
"""
import collections
import json
import re

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
# The same for ASCII text, in Python's own syntax.
_ASCII_PATTERN = re.compile(PATTERN.replace(r"[^\r\n\p{L}\p{N}]", r"[^\r\nA-Za-z0-9]").replace(
    r"[^\s\p{L}\p{N}]", r"[^\sA-Za-z0-9]").replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]"))


def byte_letters():
    """GPT-2's printable letter for each byte: itself where that is printable, else the next free one from U+0100."""
    printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    letters, free = {b: chr(b) for b in printable}, 0x100
    for b in range(256):
        if b not in letters:
            letters[b] = chr(free)
            free += 1
    return letters


LETTERS = byte_letters()


def pieces(text):
    if not text.isascii():
        raise ValueError("this trainer knows ASCII only")
    return _ASCII_PATTERN.findall(text)


class Tokenizer:
    def __init__(self, tokens, merges):
        self.ids = {t: i for i, t in enumerate(tokens)}
        self.tokens, self.merges = tokens, merges
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.bos, self.eos = len(tokens), len(tokens) + 1
        self.size = len(tokens) + 2
        self._cache = {}

    def _piece(self, piece):
        if piece not in self._cache:
            parts = [LETTERS[b] for b in piece.encode()]
            while len(parts) > 1:
                rank, i = min((self.rank.get(pair, len(self.rank)), i) for i, pair in enumerate(zip(parts, parts[1:])))
                if rank == len(self.rank):
                    break
                parts[i:i + 2] = [parts[i] + parts[i + 1]]
            self._cache[piece] = [self.ids[p] for p in parts]
        return self._cache[piece]

    def encode(self, text):
        """With the begin-of-text token in front."""
        return [self.bos] + [i for piece in pieces(text) for i in self._piece(piece)]

    def save(self, folder):
        def added(i, content):
            return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                    "normalized": False, "special": True}
        bos = {"SpecialToken": {"id": BOS, "type_id": 0}}
        post = {"type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": BOS, "type_id": 1}},
                         {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {BOS: {"id": BOS, "ids": [self.bos], "tokens": [BOS]}}}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        self._write(folder / "tokenizer.json", {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(self.bos, BOS), added(self.eos, EOS)], "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, byte_level]},
            "post_processor": post, "decoder": dict(byte_level, use_regex=True),
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                      "vocab": self.ids, "merges": [" ".join(pair) for pair in self.merges]}})
        self._write(folder / "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS,
            "clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"]})
        self._write(folder / "special_tokens_map.json", {"bos_token": BOS, "eos_token": EOS})

    @staticmethod
    def _write(path, content):
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def train(texts, size):
    """A tokenizer of `size` tokens in all: 256 bytes, merges, begin and end of text."""
    counts = collections.Counter(p for text in texts for p in pieces(text))
    words = [([LETTERS[b] for b in piece.encode()], n) for piece, n in sorted(counts.items())]
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for w, (parts, n) in enumerate(words):
        for pair in zip(parts, parts[1:]):
            pairs[pair] += n
            where[pair].add(w)
    tokens, merges = sorted(LETTERS.values()), []
    while len(tokens) < size - 2:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        tokens.append("".join(best))
        merges.append(best)
        for w in sorted(where.pop(best)):
            parts, n = words[w]
            for pair in zip(parts, parts[1:]):
                pairs[pair] -= n
            merged, i = [], 0
            while i < len(parts):
                if tuple(parts[i:i + 2]) == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            words[w] = (merged, n)
            for pair in zip(merged, merged[1:]):
                pairs[pair] += n
                where[pair].add(w)
        del pairs[best]
    return Tokenizer(tokens, merges)
