#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a language model in ONNX Runtime: logits_in_onnxruntime.py MODEL OUT.f32 TOKEN...

Inputs past_key.N and past_value.N, where the model has them, are first empty; the tokens are then given in two halves,
the second with what the first one left. Writes the logits of all tokens, float32 [tokens, vocabulary].
"""
import sys

import numpy as np
import onnxruntime


def main(arguments):
    model, out, tokens = arguments[0], arguments[1], np.array([[int(t) for t in arguments[2:]]])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    past = [i for i in session.get_inputs() if i.name.startswith("past_")]
    if not past:
        logits = session.run(["logits"], {"input_ids": tokens})[0]
    else:
        feeds = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in past}
        half, parts = tokens.shape[1] // 2, []
        for piece in (tokens[:, :half], tokens[:, half:]):
            names = [o.name for o in session.get_outputs()]
            answers = dict(zip(names, session.run(names, {"input_ids": piece, **feeds})))
            parts.append(answers["logits"])
            feeds = {i.name: answers[i.name.replace("past_", "present_")] for i in past}
        logits = np.concatenate(parts, axis=1)
    logits[0].astype(np.float32).tofile(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
