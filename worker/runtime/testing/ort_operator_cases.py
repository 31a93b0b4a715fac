#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes random single-operator models and what ONNX Runtime computes for them.

    ort_operator_cases.py FOLDER [SEED] [ROUNDS]
    ort_operator_cases.py --model MODEL.onnx OUT.npz [SEED]    one random input for a real model, and its outputs

writes FOLDER/<number>_<operator>.onnx and .npz (in_0, ..., out_0, ...). Shapes, axes and the like are initializers,
data are inputs. A case that ONNX Runtime refuses is left out, with its reason on stderr; the last line on stdout says
how many cases there are. Debian's onnx and onnxruntime share one operator registry and disturb each other, so the models
are made in one process and run in another.
"""
import os
import random
import subprocess
import sys

import numpy as np

F32, I64, I32, U8, I8, BOOL = np.float32, np.int64, np.int32, np.uint8, np.int8, np.bool_


class Maker:
    """Collects cases; `r` is the seeded source of all choices."""

    def __init__(self, folder, seed):
        from onnx import TensorProto, helper, numpy_helper
        self.helper, self.numpy_helper, self.TensorProto = helper, numpy_helper, TensorProto
        self.folder, self.count = folder, 0
        self.r = random.Random(seed)
        self.n = np.random.default_rng(seed)

    def data(self, shape, dtype=F32):
        if dtype in (F32, np.float64, np.float16):
            return (self.n.standard_normal(shape) * 2).astype(dtype)
        if dtype == BOOL:
            return self.n.integers(0, 2, shape).astype(BOOL)
        info = np.iinfo(dtype)
        return self.n.integers(max(info.min, -100), min(info.max, 200), shape, endpoint=True).astype(dtype)

    def shape(self, low=1, high=4, top=5):
        return [self.r.randint(1, top) for _ in range(self.r.randint(low, high))]

    def case(self, op, inputs, outputs=1, opset=21, domain="", **attributes):
        """inputs: arrays (fed), ('const', array), ('int4', array, signed) or None; attributes of None are left out."""
        helper, names, graph_inputs, initializers, feeds = self.helper, [], [], [], {}
        for i, value in enumerate(inputs):
            name = f"in_{i}"
            if value is None:
                names.append("")
                continue
            names.append(name)
            if isinstance(value, tuple) and value[0] == "const":
                initializers.append(self.numpy_helper.from_array(np.asarray(value[1]), name))
            elif isinstance(value, tuple):
                kind = self.TensorProto.INT4 if value[2] else self.TensorProto.UINT4
                initializers.append(helper.make_tensor(name, kind, value[1].shape, value[1].flatten()))
            else:
                value = np.asarray(value)
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                graph_inputs.append(helper.make_tensor_value_info(name, kind, value.shape))
                feeds[name] = value
        outs = [f"out_{i}" for i in range(outputs)]
        node = helper.make_node(op, names, outs, name="node", domain=domain,
                                **{k: v for k, v in attributes.items() if v is not None})
        graph = helper.make_graph([node], "case", graph_inputs,
                                  [self.helper.make_empty_tensor_value_info(o) for o in outs], initializers)
        opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset >= 21 else 8)
        self.count += 1
        base = os.path.join(self.folder, f"{self.count:04d}_{op}")
        with open(base + ".onnx", "wb") as f:
            f.write(model.SerializeToString())
        np.savez(base + ".npz", **feeds)


def const(values, dtype=I64):
    return ("const", np.array(values, dtype=dtype))


def window(m, dims):
    """Random attributes of a sliding window and an input size that fits them."""
    r = m.r
    kernel = [r.randint(1, 4) for _ in range(dims)]
    strides = [r.randint(1, 3) for _ in range(dims)]
    dilations = [r.randint(1, 2) for _ in range(dims)]
    size = [max((k - 1) * d + 1, r.randint(3, 11)) for k, d in zip(kernel, dilations)]
    auto = r.choice(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if auto.startswith("SAME"):
        dilations = [1] * dims
        # Where a stride is larger than the kernel, ONNX Runtime's pooling pads by a negative amount; we by none.
        strides = [min(s, k) for s, k in zip(strides, kernel)]
    pads = [r.randint(0, k - 1) for k in kernel] + [r.randint(0, k - 1) for k in kernel] if auto == "NOTSET" else None
    return kernel, strides, dilations, pads, auto, size


def convolutions(m):
    r = m.r
    for dims in (1, 2, 2, 2, 3):
        kernel, strides, dilations, pads, auto, size = window(m, dims)
        groups = r.choice([1, 1, 2, 3])
        cin = groups * r.randint(1, 3)
        cout = groups * r.randint(1, 3)
        x = m.data([r.randint(1, 2), cin] + size)
        bias = r.choice([None, m.data([cout])])
        common = dict(strides=strides, dilations=dilations, pads=pads, group=groups, kernel_shape=kernel)
        auto_pad = None if auto == "NOTSET" else auto
        m.case("Conv", [x, m.data([cout, cin // groups] + kernel), bias], auto_pad=auto_pad, **common)
        if dims == 2:
            m.case("ConvInteger", [m.data(x.shape, U8), m.data([cout, cin // groups] + kernel, U8),
                                   np.array(r.randint(0, 255), U8), np.array(r.randint(0, 255), U8)], auto_pad=auto_pad, **common)
        w = m.data([cin, cout // groups] + kernel)
        if r.random() < 0.3:
            # No larger than the kernel reaches: beyond that ONNX Runtime 1.21 leaves memory as it was.
            reach = [(s - 1) * t + (k - 1) * d + 1 for s, t, k, d in zip(size, strides, kernel, dilations)]
            m.case("ConvTranspose", [x, w, bias], strides=strides, group=groups, dilations=dilations,
                   output_shape=[min(s * t + r.randint(0, 1), e) for s, t, e in zip(size, strides, reach)],
                   auto_pad=r.choice([None, "SAME_UPPER", "SAME_LOWER"]))
        else:
            m.case("ConvTranspose", [x, w, bias], strides=strides, dilations=dilations, group=groups,
                   pads=[min(p, 1) for p in pads] if pads else None, kernel_shape=kernel,
                   output_padding=[r.randint(0, s - 1) for s in strides], auto_pad=auto_pad)


def pools(m):
    r = m.r
    for dims in (1, 2, 2, 2, 3):
        kernel, strides, dilations, pads, auto, size = window(m, dims)
        x = m.data([r.randint(1, 2), r.randint(1, 3)] + size)
        auto_pad = None if auto == "NOTSET" else auto
        common = dict(kernel_shape=kernel, strides=strides, pads=pads, auto_pad=auto_pad, ceil_mode=r.randint(0, 1))
        m.case("MaxPool", [x], dilations=dilations, **common)
        m.case("AveragePool", [x], **common)
        # ONNX Runtime 1.21 reads a wrong entry of unequal pads when it counts them (over 2 and 3 dimensions).
        same = {**common, "auto_pad": None, "pads": [min(k - 1 for k in kernel)] * (2 * dims)}
        m.case("AveragePool", [x], count_include_pad=1, **same)
        m.case("LpPool", [x], p=r.randint(1, 3), **{**common, "ceil_mode": 0})
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        m.case(op, [m.data([2, 3] + m.shape(1, 3))])
    m.case("MaxPool", [m.data([1, 2, 5, 6], r.choice([U8, I8]))], kernel_shape=[2, 3], strides=[1, 2])


def matrices(m):
    r = m.r
    batch = m.shape(0, 3, 3)
    other = [r.choice([1, b]) for b in batch][r.randint(0, len(batch)):]
    k, a, b = r.randint(1, 9), r.randint(1, 7), r.randint(1, 7)
    m.case("MatMul", [m.data(batch + [a, k]), m.data(other + [k, b])])
    m.case("MatMul", [m.data(other + [a, k]), m.data(batch + [k, b])])
    m.case("MatMul", [m.data([k]), m.data(batch + [k, b])])
    m.case("MatMul", [m.data(batch + [a, k]), m.data([k])])
    m.case("MatMul", [m.data([k]), m.data([k])])
    m.case("MatMul", [m.data([a, k], I32), m.data([k, b], I32)])
    m.case("MatMulInteger", [m.data(batch + [a, k], U8), m.data([k, b], r.choice([U8, I8])),
                             np.array(r.randint(0, 255), U8), None])
    zb = m.data([b], I8)
    m.case("MatMulInteger", [m.data([a, k], U8), m.data([k, b], I8), np.array(3, U8), zb])
    ta, tb = r.randint(0, 1), r.randint(0, 1)
    c = r.choice([None, m.data([b]), m.data([a, 1]), m.data([a, b]), m.data([1]), m.data([])])
    m.case("Gemm", [m.data([k, a] if ta else [a, k]), m.data([b, k] if tb else [k, b]), c],
           transA=ta, transB=tb, alpha=r.uniform(-2, 2), beta=r.uniform(-2, 2))
    for equation, shapes in (("ij,jk->ik", [[a, k], [k, b]]), ("bij,bjk", [[2, a, k], [2, k, b]]),
                             ("...ij,...jk->...ik", [[2, 3, a, k], [2, 3, k, b]]), ("ii->i", [[k, k]]), ("ij->", [[a, k]]),
                             ("bhqd,bhkd->bhqk", [[1, 2, 3, 4], [1, 2, 5, 4]]), ("i,j->ij", [[a], [b]])):
        m.case("Einsum", [m.data(s) for s in shapes], equation=equation)


def norms(m):
    r = m.r
    x = m.data([r.randint(1, 3), 4] + m.shape(1, 3))
    per_channel = [m.data([4]) for _ in range(3)]
    m.case("BatchNormalization", [x] + per_channel + [np.abs(m.data([4])) + F32(0.1)], epsilon=r.choice([1e-5, 1e-2]))
    m.case("InstanceNormalization", [x] + per_channel[:2], epsilon=1e-3)
    m.case("GroupNormalization", [x, m.data([4]), m.data([4])], num_groups=2)
    m.case("LRN", [x], size=r.choice([1, 3, 5]), alpha=r.uniform(0, 1), beta=0.75, bias=r.uniform(1, 2))
    axis = r.randint(1, x.ndim - 1)
    m.case("LayerNormalization", [x, m.data(x.shape[axis:]), r.choice([None, m.data(x.shape[axis:])])], axis=axis)
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        m.case(op, [x * 5], axis=r.randint(-x.ndim, x.ndim - 1))
    m.case("LpNormalization", [x], axis=r.randint(0, x.ndim - 1), p=r.randint(1, 2))


def unary(m):
    r = m.r
    x = m.data(m.shape())
    for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Reciprocal", "Neg", "Abs", "Floor", "Ceil",
               "Erf", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "Sign", "Mish", "Identity", "HardSwish",
               "Selu", "Elu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Celu", "Gelu", "IsNaN"):
        alpha = r.choice([None, r.uniform(0.1, 1.5)]) if op in ("Elu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Celu", "Selu") else None
        m.case(op, [x], alpha=alpha)
    m.case("Gelu", [x], approximate="tanh")
    for op in ("Log", "Sqrt", "Acosh"):
        m.case(op, [np.abs(x) + F32(1.01)])
    for op in ("Asin", "Acos", "Atanh"):
        m.case(op, [np.tanh(x)])
    m.case("Round", [(np.round(x * 4) / 2).astype(F32)])  # many halves
    m.case("Not", [m.data([7], BOOL)])
    for dtype in (I32, I64, I8):
        m.case("Abs", [m.data([9], dtype)])
        m.case("Neg", [m.data([9], dtype)])
        m.case("Sign", [m.data([9], dtype)])
    m.case("Clip", [x, r.choice([None, np.array(-0.5, F32)]), r.choice([None, np.array(1.0, F32)])])
    m.case("Clip", [m.data([20], I64), np.array(-5, I64), np.array(50, I64)])
    m.case("Clip", [x, np.array(1, F32), np.array(-1, F32)])


def broadcastable(m):
    shape = m.shape(0, 4)
    first = [m.r.choice([1, d, d]) for d in shape]
    second = [d if f == 1 else m.r.choice([1, d, d]) for d, f in zip(shape, first)][m.r.randint(0, max(len(shape) - 1, 0)):]
    return (first, second) if m.r.random() < 0.5 else (second, first)


def binary(m):
    r = m.r
    for op in ("Add", "Sub", "Mul", "Div"):
        for dtype in (F32, I32, I64, np.float64, U8, I8):
            a, b = broadcastable(m)
            x, y = m.data(a, dtype), m.data(b, dtype)
            if op == "Div" and dtype != F32:
                y = np.where(y == 0, dtype(3), y).astype(dtype)
            m.case(op, [x, y])
    for dtype in (I32, I64):
        a, b = broadcastable(m)
        y = m.data(b, dtype)
        m.case("Mod", [m.data(a, dtype), np.where(y == 0, dtype(3), y).astype(dtype)], fmod=r.randint(0, 1))
    a, b = broadcastable(m)
    m.case("Mod", [m.data(a), m.data(b)], fmod=1)
    m.case("Pow", [np.abs(m.data(a)), m.data(b)])
    m.case("Pow", [m.data(a), m.n.integers(0, 4, b).astype(r.choice([I32, I64]))])
    m.case("Pow", [m.data(a, I32) % 5, m.n.integers(0, 4, b).astype(I32)])
    for op in ("Min", "Max", "Sum", "Mean"):
        c, d = broadcastable(m)
        m.case(op, [m.data(c), m.data(d), m.data(c)])
    m.case("Max", [m.data(c, I64), m.data(d, I64)])
    for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        for dtype in (F32, I64, I32):
            a, b = broadcastable(m)
            m.case(op, [(m.data(a, dtype) % 5).astype(dtype), (m.data(b, dtype) % 5).astype(dtype)])
    m.case("Equal", [m.data([5], BOOL), m.data([5], BOOL)])
    for op in ("And", "Or", "Xor"):
        a, b = broadcastable(m)
        m.case(op, [m.data(a, BOOL), m.data(b, BOOL)])
    for dtype in (F32, I64, U8):
        a, b = broadcastable(m)
        m.case("Where", [m.data(r.choice([a, b]), BOOL), m.data(a, dtype), m.data(b, dtype)])
    m.case("PRelu", [m.data([2, 3, 4, 5]), m.data(r.choice([[3, 1, 1], [1], [5], [2, 3, 4, 5]]))])


def reductions(m):
    r = m.r
    for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
               "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"):
        x = m.data(m.shape(1, 4))
        if op == "ReduceLogSum":
            x = np.abs(x) + F32(0.1)
        axes = r.sample(range(-x.ndim, 0), r.randint(1, x.ndim))
        keep = r.choice([None, 0, 1])
        m.case(op, [x, const(axes)], keepdims=keep)
        m.case(op, [x], keepdims=keep)
        m.case(op, [x, const([])], keepdims=keep, noop_with_empty_axes=1)
        if op != "ReduceSum":
            m.case(op, [x], opset=13, axes=axes, keepdims=keep)
        if op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean"):
            m.case(op, [m.data([2, 3, 4], r.choice([I32, I64])) % 7, const(r.choice([[0], [1], [0, 2]]))], keepdims=keep)
    for op in ("ArgMax", "ArgMin"):
        x = np.round(m.data(m.shape(1, 4)))
        m.case(op, [x], axis=r.randint(-x.ndim, x.ndim - 1), keepdims=r.randint(0, 1), select_last_index=r.randint(0, 1))
    x = m.data([3, 4, 5], r.choice([F32, I32, I64]))
    m.case("CumSum", [x, np.array(r.randint(-3, 2), I64)], exclusive=r.randint(0, 1), reverse=r.randint(0, 1))
    n = r.randint(1, 8)
    x = m.data([3, n, 2])
    m.case("TopK", [x, const([r.randint(1, n)])], outputs=2, axis=1, largest=r.randint(0, 1))
    m.case("TopK", [m.data([2, n], I64), const([r.randint(1, n)])], outputs=2)


def shapes(m):
    r = m.r
    for dtype in (F32, I64, U8):
        x = m.data([2, 3, 4, 6], dtype)
        m.case("Reshape", [x, const(r.choice([[6, -1], [0, -1], [2, 0, 24], [144], [-1, 12, 1]]))])
        m.case("Flatten", [x], axis=r.randint(-4, 4))
        m.case("Transpose", [x], perm=r.choice([None, r.sample(range(4), 4)]))
        m.case("Squeeze", [m.data([1, 3, 1, 2], dtype), r.choice([None, const([0]), const([0, -2])])])
        m.case("Unsqueeze", [x, const(r.choice([[0], [-1], [0, 5], [2, -1]]))])
        m.case("Expand", [m.data([3, 1], dtype), const(r.choice([[2, 1, 6], [3, 4], [1], [5, 3, 1]]))])
        m.case("Shape", [x], start=r.choice([None, 1, -2, -9]), end=r.choice([None, 3, -1, 9]))
        m.case("Size", [x])
        m.case("Concat", [x, m.data([2, 3, 1, 6], dtype), m.data([2, 3, 2, 6], dtype)], axis=r.choice([2, -2]))
        m.case("Split", [x, const([1, 3, 2])], outputs=3, axis=r.choice([3, -1]))
        m.case("Split", [m.data([2, 7], dtype)], outputs=4, axis=1, num_outputs=4)
        m.case("Split", [x], outputs=2, axis=2, opset=13)
        starts = [r.randint(-8, 8) for _ in range(2)]
        steps = [r.choice([1, 2, 3, -1, -2]) for _ in range(2)]
        # Backwards to the largest integer: ONNX Runtime takes it for "to the end", the specification clamps it.
        ends = [r.choice([r.randint(-8, 8), 2**31 - 1 if step > 0 else -2**31]) for step in steps]
        m.case("Slice", [x, const(starts), const(ends), const(r.sample([0, 1, 2, -1], 2)), const(steps)])
        ends = [r.choice([r.randint(-8, 8), 2**31 - 1]) for _ in range(2)]
        m.case("Slice", [x, const(starts), const(ends)])
        m.case("Tile", [x, const([r.randint(1, 2) for _ in range(4)])])
        pads = [r.randint(0, 2) for _ in range(8)]
        mode = r.choice(["constant", "reflect", "edge", "wrap"])
        if mode == "reflect":
            pads = [min(p, 1) for p in pads]
        m.case("Pad", [x, const(pads), r.choice([None, np.array(7, dtype)]) if mode == "constant" else None], mode=mode)
        m.case("Pad", [x, const([1, -1, 0, -2]), None, const([3, -2])], mode="constant")
        d = m.data([2, 16, 3, 2], dtype)
        m.case("DepthToSpace", [d], blocksize=2, mode=r.choice(["DCR", "CRD"]))
        m.case("SpaceToDepth", [x], blocksize=2)
        axis = r.randint(-4, 3)
        n = x.shape[axis]
        m.case("Gather", [x, m.n.integers(-n, n, m.shape(0, 2)).astype(r.choice([I32, I64]))], axis=axis)
        m.case("GatherElements", [x, m.n.integers(-4, 4, [2, 3, 5, 6]).astype(I64)], axis=2)
        m.case("GatherND", [x, m.n.integers(0, 2, [3, 2]).astype(I64)])
        m.case("GatherND", [x, m.n.integers(0, 3, [2, 4, 1]).astype(I64)], batch_dims=1)
        m.case("ScatterND", [x, const([[1], [0]]), m.data([2, 3, 4, 6], dtype)])
        m.case("ScatterElements", [m.data([3, 4], dtype), const([[1, 2], [0, 3]]), m.data([2, 2], dtype)], axis=1)
        m.case("Trilu", [m.data([2, 4, 5], dtype), np.array(r.randint(-3, 3), I64)], upper=r.randint(0, 1))
        m.case("OneHot", [m.n.integers(-3, 6, [2, 3]).astype(I64), const(4), np.array([0, 5], dtype)], axis=r.randint(-1, 1))
    value = m.numpy_helper.from_array(np.array([3], r.choice([F32, I64])))
    m.case("ConstantOfShape", [const([2, 3])], value=r.choice([None, value]))
    m.case("Range", [const(1), const(r.randint(-5, 20)), const(r.choice([1, 3, -2]))])
    m.case("Range", [const(0.5, F32), const(4, F32), const(0.7, F32)])


def casts(m):
    t = m.TensorProto
    for source in (F32, np.float64, I32, I64, U8, I8, BOOL, np.float16):
        for to in (t.FLOAT, t.DOUBLE, t.INT32, t.INT64, t.UINT8, t.INT8, t.BOOL, t.FLOAT16):
            x = m.data([11], source)
            if to in (t.UINT8,) and np.issubdtype(source, np.floating):
                x = np.abs(x)  # negative floats to unsigned integers are not defined
            m.case("Cast", [x], to=to)


def resizes(m):
    r = m.r
    for _ in range(4):
        for mode in ("nearest", "linear", "cubic"):
            for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"):
                x = m.data([1, 2, r.randint(3, 7), r.randint(3, 7)])
                options = dict(mode=mode, coordinate_transformation_mode=coordinates)
                if mode == "nearest":
                    options["nearest_mode"] = r.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
                if mode == "cubic":
                    options.update(cubic_coeff_a=r.choice([-0.75, -0.5]), exclude_outside=r.randint(0, 1))
                if r.random() < 0.5:
                    m.case("Resize", [x, None, None, const([1, 2, r.randint(1, 12), r.randint(1, 12)])], **options)
                else:
                    m.case("Resize", [x, None, const([1, 1, r.choice([0.5, 0.6, 1.5, 2, 3]), r.choice([0.4, 1, 2, 2.5])], F32)], **options)
    x = m.data([1, 2, 5, 6])
    m.case("Resize", [x, const([0, 0, 0.2, -0.1, 1, 1, 0.9, 1.2], F32), None, const([1, 2, 4, 7])], mode="linear",
           coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0)
    m.case("Resize", [x, None, None, const([9, 7])], axes=[2, 3], keep_aspect_ratio_policy=r.choice(["not_larger", "not_smaller"]))


def quantization(m):
    r = m.r
    for dtype in (U8, I8, np.uint16, np.int16):
        info = np.iinfo(dtype)
        x = m.data([2, 4, 3]) * 30
        zero = m.n.integers(info.min // 2, info.max // 2, [4]).astype(dtype)
        scale = (m.n.uniform(0.05, 0.5, [4])).astype(F32)
        m.case("QuantizeLinear", [x, scale[0].reshape([]), zero[0].reshape([])])
        m.case("QuantizeLinear", [x, scale, zero], axis=r.choice([1, -2]))
        m.case("DequantizeLinear", [m.data([2, 4, 3], dtype), scale[0].reshape([]), r.choice([None, zero[0].reshape([])])])
        m.case("DequantizeLinear", [m.data([2, 4, 3], dtype), scale, zero], axis=1)
        m.case("QuantizeLinear", [np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9], F32), np.array(1, F32), zero[0].reshape([])])
        m.case("DequantizeLinear", [m.data([4, 6], dtype), m.data([2, 6]), m.data([2, 6], dtype)], axis=0, block_size=2)
        m.case("QuantizeLinear", [m.data([4, 6]) * 9, np.abs(m.data([4, 2])) + F32(0.1), m.data([4, 2], dtype)], axis=1, block_size=3)
    m.case("DequantizeLinear", [m.n.integers(-10**6, 10**6, [3, 5]).astype(I32), m.data([3])], axis=0)
    for signed in (True, False):
        w = m.n.integers(-8 if signed else 0, 8 if signed else 16, [5, 3])
        m.case("DequantizeLinear", [("int4", w, signed), np.array(0.25, F32)])
        m.case("DequantizeLinear", [("int4", w, signed), m.data([3]), ("int4", w[0], signed)], axis=1)
    a, k, b = r.randint(1, 5), r.randint(1, 9), r.randint(1, 6)
    scale, zero = np.array(r.uniform(0.5, 4), F32), np.array(r.randint(0, 255), U8)
    for wide in (False, True):
        bs = m.n.uniform(0.01, 0.1, [b]).astype(F32) if wide else np.array(0.02, F32)
        bz = np.zeros([b], I8) if wide else np.array(r.randint(-9, 9), I8)
        m.case("QLinearMatMul", [m.data([2, a, k], U8), np.array(0.1, F32), np.array(7, U8), ("const", m.data([k, b], I8)),
                                 ("const", bs), ("const", bz), scale / F32(20), zero])
        m.case("QLinearConv", [m.data([1, 2, 5, 6], U8), np.array(0.1, F32), zero, ("const", m.data([b, 2, 3, 2], I8)),
                               ("const", bs), ("const", np.zeros_like(bz)), scale / F32(5), np.array(r.randint(0, 255), U8),
                               r.choice([None, ("const", m.data([b], I32) * 10)])], pads=[1, 0, 1, 1], strides=[2, 1])
    m.case("DynamicQuantizeLinear", [m.data([3, 5]) + F32(r.choice([0, 9, -9]))], outputs=3)


def recurrent(m):
    r = m.r
    seq, batch, size, hidden = r.randint(1, 4), r.randint(1, 3), r.randint(1, 4), r.randint(1, 5)
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for direction in ("forward", "reverse", "bidirectional"):
            d = 2 if direction == "bidirectional" else 1
            x, w, u = m.data([seq, batch, size]), m.data([d, gates * hidden, size]), m.data([d, gates * hidden, hidden])
            b = r.choice([None, m.data([d, 2 * gates * hidden])])
            lengths = r.choice([None, m.n.integers(1, seq, [batch], endpoint=True).astype(I32)])
            h = r.choice([None, m.data([d, batch, hidden])])
            inputs = [x, w, u, b, lengths, h]
            if op == "LSTM":
                inputs += [r.choice([None, m.data([d, batch, hidden])]), r.choice([None, m.data([d, 3 * hidden])])]
            m.case(op, inputs, outputs=3 if op == "LSTM" else 2, direction=direction, hidden_size=hidden,
                   linear_before_reset=r.randint(0, 1) if op == "GRU" else None)


def decoders(m):
    r = m.r
    for block in (16, 32, 64, 128):
        k, n = r.choice([1, 15, 40, 64, 172, 173, 300]), r.choice([1, 5, 64, 173])
        rows = r.choice([[1], [3, 2], [11]])
        blocks = -(-k // block)
        codes = m.n.integers(0, 256, [n, blocks, block // 2]).astype(U8)
        zero_bytes = (blocks + 1) // 2
        zeros = r.choice([None, ("const", m.n.integers(0, 256, [n, zero_bytes]).astype(U8)),
                          ("const", m.n.uniform(0, 15, [n, blocks]).astype(F32))])
        bias = r.choice([None, ("const", m.data([n]))])
        scales = ("const", m.n.uniform(-0.2, 0.2, [n, blocks]).astype(F32))
        m.case("MatMulNBits", [m.data(rows + [k]), ("const", codes), scales, zeros] + ([None, bias] if bias else []),
               domain="com.microsoft", K=k, N=n, bits=4, block_size=block)
    for flat in (False, True):
        batch, heads, length, half = r.randint(1, 3), r.randint(1, 4), r.randint(1, 6), r.choice([2, 8, 20])
        partial = r.random() < 0.5
        size = 2 * half + (4 if partial else 0)
        x = m.data([batch, length, heads * size] if flat else [batch, heads, length, size])
        positions = m.n.integers(0, 9, [batch, length]).astype(I64)
        angles = m.n.uniform(-3, 3, [9, half]).astype(F32)
        m.case("RotaryEmbedding", [x, positions, ("const", np.cos(angles)), ("const", np.sin(angles))],
               domain="com.microsoft", interleaved=r.randint(0, 1), num_heads=heads,
               rotary_embedding_dim=2 * half if partial else None)
    x = m.data([2, 3, r.choice([5, 64, 173])])
    m.case("SimplifiedLayerNormalization", [x, m.data(x.shape[-1:])], axis=-1)
    m.case("LayerNormalization", [x, m.data(x.shape[-1:]), m.data(x.shape[-1:])], axis=-1)
    m.case("Gather", [("const", m.data([7, 20])), m.n.integers(-7, 7, [2, 3]).astype(I64)])


FAMILIES = [decoders, convolutions, pools, matrices, norms, unary, binary, reductions, shapes, casts, resizes, quantization, recurrent]


def open_session(path):
    import onnxruntime
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_model(model, npz, seed):
    """Floating-point inputs are normal, integers uniform; dimensions that the model leaves open are 1."""
    session, random_values, feeds = open_session(model), np.random.default_rng(seed), {}
    for value in session.get_inputs():
        types = {"tensor(float)": F32, "tensor(float16)": np.float16, "tensor(uint8)": U8, "tensor(int8)": I8}
        if value.type not in types:
            raise SystemExit(f"input {value.name} is {value.type}")
        shape, dtype = [d if isinstance(d, int) else 1 for d in value.shape], types[value.type]
        if np.issubdtype(dtype, np.integer):
            info = np.iinfo(dtype)
            feeds[value.name] = random_values.integers(info.min, info.max, shape, endpoint=True).astype(dtype)
        else:
            feeds[value.name] = random_values.standard_normal(shape).astype(dtype)
    names = [o.name for o in session.get_outputs()]
    np.savez(npz, **feeds, **dict(zip(names, session.run(names, feeds))))


def run_cases(folder):
    kept = 0
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".onnx"):
            continue
        base = os.path.join(folder, name[:-5])
        with np.load(base + ".npz") as feeds:
            feeds = dict(feeds)
        try:
            session = open_session(base + ".onnx")
            outputs = session.run(None, feeds)
            names = [o.name for o in session.get_outputs()]
        except Exception as e:  # noqa: BLE001: whatever it does not support is left out
            print(f"{name}: {str(e).splitlines()[0][:200]}", file=sys.stderr)
            os.remove(base + ".onnx"), os.remove(base + ".npz")
            continue
        np.savez(base + ".npz", **feeds, **dict(zip(names, outputs)))
        kept += 1
    print(f"{kept} cases")


def declare_outputs(folder):
    """Gives the graph outputs the types and shapes that came out: ONNX's checker wants them."""
    import onnx
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".onnx"):
            continue
        path = os.path.join(folder, name)
        model = onnx.load(path)
        with np.load(path[:-5] + ".npz") as arrays:
            for i, output in enumerate(model.graph.output):
                value = arrays[output.name]
                kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
                model.graph.output[i].CopyFrom(onnx.helper.make_tensor_value_info(output.name, kind, value.shape))
        for node in model.graph.node:
            if node.op_type == "SimplifiedLayerNormalization":  # ONNX Runtime's name before opset 23; see RunCase
                node.op_type, node.domain = "RMSNormalization", "com.microsoft"
                model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        onnx.save(model, path)


def main():
    if sys.argv[1] == "--run":
        return run_cases(sys.argv[2])
    if sys.argv[1] == "--model":
        return run_model(sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    folder = sys.argv[1]
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    os.makedirs(folder, exist_ok=True)
    maker = Maker(folder, seed)
    for _ in range(rounds):
        for family in FAMILIES:
            family(maker)
    sys.stdout.flush()
    subprocess.run([sys.executable, __file__, "--run", folder], check=True)
    return declare_outputs(folder)


if __name__ == "__main__":
    main()
