#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""linear_bench with its arguments: linear layers by form of their weights."""
import os
import sys

path = os.path.join(os.environ["QUANT_BIN"], "linear_bench")
os.execv(path, [path] + sys.argv[1:])
