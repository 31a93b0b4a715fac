#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as an outside judge and peer: outputs, accuracy, latency and its own static INT8.

Used by tests and benchmarks, inside the environment of ./dev; no part of the service. Results are one JSON document on
stdout, everything else goes to stderr. A dataset is a folder with a preprocess.json, the array it names, and labels.npy
for accuracy. Exit status: 0 done, 1 the model or the data is unfit (the reason is printed), 2 wrong usage, 3 this
ONNX Runtime cannot do it (no quantization tools).

  onnxruntime_run.py run model.onnx --inputs in.npz --outputs out.npz
  onnxruntime_run.py accuracy model.onnx datasets/cifar10 --skip 256
  onnxruntime_run.py latency model.onnx --threads 2 --batch 1 --seconds 3
  onnxruntime_run.py quantize model.onnx int8.onnx --calibration datasets/cifar10 --samples 256 --per-channel
"""
import argparse
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np


class Unfit(Exception):
    """The model or the data cannot be used; the text says why."""


@contextlib.contextmanager
def _quiet_stderr():
    """Hides what native code prints to file descriptor 2 (hundreds of lines of double schema registration)."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _session(model, threads, optimize=True):
    with _quiet_stderr():
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Unfit(f"ONNX Runtime does not load {model}: {error}") from error


def _infer(session, names, feeds):
    try:
        return session.run(names, feeds)
    except Exception as error:
        raise Unfit(f"ONNX Runtime could not run the model: {error}") from error


_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
           "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8,
           "tensor(bool)": np.bool_}


def _dtype(argument):
    if argument.type not in _DTYPES:
        raise Unfit(f"input {argument.name} is {argument.type}, which this tool cannot make")
    return _DTYPES[argument.type]


# ---------------------------------------------------------------------------------------------------------------
# Datasets


class Dataset:
    """Images of a dataset folder, as the model wants them; opened memory-mapped, converted batch by batch."""

    def __init__(self, folder, preprocess=None):
        folder = pathlib.Path(folder)
        path = pathlib.Path(preprocess) if preprocess else folder / "preprocess.json"
        try:
            spec = json.loads(path.read_text())
            self.images = np.load(folder / spec.get("array", "images.npy"), mmap_mode="r")
        except (OSError, ValueError) as error:
            raise Unfit(f"dataset {folder}: {error}") from error
        layout = spec.get("layout", "NHWC")
        if sorted(layout) != list("CHNW") or self.images.ndim != 4:
            raise Unfit(f"dataset {folder}: layout {layout} with an array of {self.images.ndim} axes; want NHWC or NCHW")
        self._to_nhwc = [layout.index(c) for c in "NHWC"]
        self._to_output = ["NHWC".index(c) for c in spec.get("output_layout", "NCHW")]
        self._flip = spec.get("output_channels", spec.get("channels")) != spec.get("channels")
        self._scale = np.float32(spec.get("scale", 1.0))
        self._mean = np.asarray(spec.get("mean", [0]), np.float32)
        self._std = np.asarray(spec.get("std", [1]), np.float32)
        labels = folder / "labels.npy"
        self.labels = np.load(labels) if labels.exists() else None

    def __len__(self):
        return len(self.images)

    def batch(self, start, end):
        """Samples start to end as float32: value * scale, minus mean, divided by std, in the output's channels."""
        x = np.transpose(self.images[start:end], self._to_nhwc).astype(np.float32)
        if self._flip:
            x = x[..., ::-1]
        x = (x * self._scale - self._mean) / self._std
        return np.ascontiguousarray(np.transpose(x, self._to_output), np.float32)


def _fixed_batch(argument):
    """The model's own batch size, or None when it is free."""
    first = argument.shape[0] if argument.shape else None
    return first if isinstance(first, int) else None


def _single_input(session):
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise Unfit(f"the model has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); this wants one")
    return inputs[0]


# ---------------------------------------------------------------------------------------------------------------
# Commands. Each returns what is printed as JSON.


def run(args):
    session = _session(args.model, args.threads, not args.no_optimize)
    with np.load(args.inputs) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    wanted = {i.name for i in session.get_inputs()}
    if len(wanted) == 1 and len(feeds) == 1:  # one to one: the array's name does not matter
        feeds = {next(iter(wanted)): next(iter(feeds.values()))}
    if wanted - feeds.keys():
        raise Unfit(f"{args.inputs} lacks {sorted(wanted - feeds.keys())}; it has {sorted(feeds)}")
    names = [o.name for o in session.get_outputs()]
    results = _infer(session, names, {name: feeds[name] for name in wanted})
    np.savez(args.outputs, **dict(zip(names, results)))
    return {"outputs": {n: {"dtype": str(r.dtype), "shape": list(r.shape)} for n, r in zip(names, results)}}


def accuracy(args):
    session = _session(args.model, args.threads, not args.no_optimize)
    data = Dataset(args.dataset, args.preprocess)
    if data.labels is None:
        raise Unfit(f"{args.dataset} has no labels.npy")
    argument = _single_input(session)
    dtype, size = _dtype(argument), _fixed_batch(argument) or args.batch
    output = args.output or session.get_outputs()[0].name
    end = len(data) if args.limit is None else min(len(data), args.skip + args.limit)
    if args.skip >= end:
        raise Unfit(f"no samples: skip {args.skip} of {len(data)}")
    ranks = []
    for start in range(args.skip, end, size):
        x = data.batch(start, min(start + size, end)).astype(dtype)
        count = len(x)
        if count < size and _fixed_batch(argument):  # the last batch of a model of fixed batch size: pad it
            x = np.concatenate([x, np.repeat(x[-1:], size - count, axis=0)])
        logits = _infer(session, [output], {argument.name: x})[0].reshape(len(x), -1)[:count].astype(np.float64)
        if not np.isfinite(logits).all():
            raise Unfit(f"output {output} is not finite for samples {start} to {start + count - 1}")
        label = data.labels[start:start + count]
        mine = np.take_along_axis(logits, label[:, None], axis=1)
        # Ties: the lower index wins, as with argmax.
        ranks.append((logits > mine).sum(1) + ((logits == mine) & (np.arange(logits.shape[1]) < label[:, None])).sum(1))
    ranks = np.concatenate(ranks)
    return {"top1": round(100 * float((ranks < 1).mean()), 4), "top5": round(100 * float((ranks < 5).mean()), 4),
            "samples": len(ranks)}


def latency(args):
    session = _session(args.model, args.threads)
    rng = np.random.default_rng(0)
    dims = dict(pair.split("=", 1) for pair in args.dim)
    feeds = {}
    for argument in session.get_inputs():
        shape = []
        for axis, dim in enumerate(argument.shape):
            if isinstance(dim, int):
                shape.append(dim)
            elif dim is not None and dim in dims:
                shape.append(int(dims[dim]))
            elif axis == 0:
                shape.append(args.batch)
            else:
                raise Unfit(f"axis {axis} of input {argument.name} is free ({dim}): give --dim {dim}=SIZE")
        dtype = _dtype(argument)
        if np.issubdtype(dtype, np.floating):
            feeds[argument.name] = rng.standard_normal(shape).astype(dtype)
        else:
            feeds[argument.name] = np.zeros(shape, dtype)
    names = [o.name for o in session.get_outputs()]
    warm_until = time.perf_counter() + args.warmup
    _infer(session, names, feeds)
    while time.perf_counter() < warm_until:
        session.run(names, feeds)
    times, until = [], time.perf_counter() + args.seconds
    while len(times) < 10 or time.perf_counter() < until:
        start = time.perf_counter()
        session.run(names, feeds)
        times.append(time.perf_counter() - start)
    ms = 1e3 * np.asarray(times)
    p50, p95, p99 = np.percentile(ms, [50, 95, 99])
    return {"mean_ms": float(ms.mean()), "std_ms": float(ms.std()), "p50_ms": float(p50), "p95_ms": float(p95),
            "p99_ms": float(p99), "runs": len(ms), "threads": args.threads,
            "shapes": {name: list(x.shape) for name, x in feeds.items()}}


def quantize(args):
    with _quiet_stderr():
        try:  # onnx.reference before onnxruntime: else their shared operator registry breaks
            import onnx
            import onnx.reference  # noqa: F401
            import onnx.version_converter
            import onnxruntime.quantization as quantization
            from onnxruntime.quantization.shape_inference import quant_pre_process
            problem = None
        except ImportError as error:
            problem = error
    if problem is not None:
        print(f"onnxruntime.quantization cannot be imported here: {problem}", file=sys.stderr)
        sys.exit(3)

    data = Dataset(args.calibration, args.preprocess)
    if len(data) < args.skip + args.samples:
        raise Unfit(f"{args.calibration} has {len(data)} samples, {args.skip + args.samples} are wanted")
    kinds = {"s8": quantization.QuantType.QInt8, "u8": quantization.QuantType.QUInt8}
    methods = {"minmax": quantization.CalibrationMethod.MinMax, "entropy": quantization.CalibrationMethod.Entropy,
               "percentile": quantization.CalibrationMethod.Percentile}

    with tempfile.TemporaryDirectory(prefix="onnxruntime-run.") as folder, _quiet_stderr(), \
            contextlib.redirect_stdout(sys.stderr):
        source = pathlib.Path(folder) / "source.onnx"
        model = onnx.load(args.model)
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if opset < 13:  # Q/DQ with an axis needs 13; the quantizer would only change the number
            model = onnx.version_converter.convert_version(model, 13)
        onnx.save(model, source)
        prepared = pathlib.Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)

        argument = _single_input(_session(prepared, 1))
        dtype, size = _dtype(argument), _fixed_batch(argument) or args.batch
        last = args.skip + args.samples - (args.samples % size if _fixed_batch(argument) else 0)

        class Reader(quantization.CalibrationDataReader):
            def __init__(self):
                self.start = args.skip

            def get_next(self):
                start, self.start = self.start, min(self.start + size, last)
                if start == self.start:
                    return None
                return {argument.name: data.batch(start, self.start).astype(dtype)}

        quantization.quantize_static(
            str(prepared), args.out, Reader(), quant_format=quantization.QuantFormat.QDQ,
            per_channel=args.per_channel, reduce_range=args.reduce_range, weight_type=kinds[args.weight],
            activation_type=kinds[args.activation], calibrate_method=methods[args.method],
            extra_options={"WeightSymmetric": args.weight == "s8"})
    before, after = (os.path.getsize(p) for p in (args.model, args.out))
    return {"original_bytes": before, "quantized_bytes": after, "ratio": round(after / before, 4),
            "samples": last - args.skip}


# ---------------------------------------------------------------------------------------------------------------


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, text, threads=2):
        sub = commands.add_parser(function.__name__, help=text, description=text)
        sub.set_defaults(function=function)
        sub.add_argument("model", metavar="MODEL.onnx")
        if threads:
            sub.add_argument("--threads", type=_positive, default=threads, help="default %(default)s")
        return sub

    sub = command(run, "run a model on the arrays of an .npz file and save all its outputs by name")
    sub.add_argument("--inputs", required=True, metavar="IN.npz", help="arrays named after the model's inputs")
    sub.add_argument("--outputs", required=True, metavar="OUT.npz")
    sub.add_argument("--no-optimize", action="store_true", help="no graph optimization: Q/DQ run as written")

    sub = command(accuracy, "top-1 and top-5 in percent on a labelled dataset")
    sub.add_argument("dataset", metavar="DATASET_DIR")
    sub.add_argument("--preprocess", metavar="FILE", help="default: DATASET_DIR/preprocess.json")
    sub.add_argument("--output", metavar="NAME", help="output with the scores (default: the first)")
    sub.add_argument("--skip", type=int, default=0, help="samples left out at the start")
    sub.add_argument("--limit", type=_positive, help="samples at most (default: all)")
    sub.add_argument("--batch", type=_positive, default=50, help="default %(default)s")
    sub.add_argument("--no-optimize", action="store_true", help="no graph optimization: Q/DQ run as written")

    sub = command(latency, "time of one run, after warm-up, on random input of the model's shape")
    sub.add_argument("--batch", type=_positive, default=1, help="for a free first axis (default 1)")
    sub.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE", help="for a free axis of that name")
    sub.add_argument("--seconds", type=float, default=3, help="default %(default)s; at least 10 runs")
    sub.add_argument("--warmup", type=float, default=0.5, metavar="SECONDS", help="default %(default)s")

    sub = command(quantize, "static INT8 (Q/DQ) with onnxruntime.quantization", threads=0)
    sub.add_argument("out", metavar="OUT.onnx")
    sub.add_argument("--calibration", required=True, metavar="DATASET_DIR")
    sub.add_argument("--preprocess", metavar="FILE", help="default: DATASET_DIR/preprocess.json")
    sub.add_argument("--skip", type=int, default=0, help="samples left out at the start")
    sub.add_argument("--samples", type=_positive, default=256, help="default %(default)s")
    sub.add_argument("--batch", type=_positive, default=16, help="samples per calibration run (default %(default)s)")
    sub.add_argument("--weight", choices=["s8", "u8"], default="s8", help="default %(default)s")
    sub.add_argument("--activation", choices=["u8", "s8"], default="u8", help="default %(default)s")
    sub.add_argument("--per-channel", action="store_true", help="a weight scale per output channel")
    sub.add_argument("--reduce-range", action="store_true", help="7-bit weights: exact without VNNI")
    sub.add_argument("--method", choices=["minmax", "entropy", "percentile"], default="minmax",
                     help="default %(default)s")

    args = parser.parse_args()
    try:
        print(json.dumps(args.function(args)))
    except Unfit as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
