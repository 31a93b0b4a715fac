# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks run on: our example, and the shared models where they are."""
import os
import pathlib
import shutil
import sys

TOP = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests" / "support"))
import service as support  # noqa: E402


class Case:
    """A model with its data; calibration takes the first `samples`, evaluation the rest."""

    def __init__(self, name, model, data, samples, preprocess=None, evaluation=None):
        self.name, self.model, self.data = name, pathlib.Path(model), pathlib.Path(data)
        self.samples, self.preprocess, self.evaluation = samples, preprocess, evaluation

    def folder(self, work):
        """The dataset with the right preprocess.json, linked below `work` where it needs another than its own."""
        if self.preprocess is None:
            return self.data
        folder = pathlib.Path(work) / f"{self.name}-data"
        if not folder.exists():
            folder.mkdir(parents=True)
            for file in ("images.npy", "labels.npy"):
                shutil.copyfile(self.data / file, folder / file)
            shutil.copyfile(self.data / self.preprocess, folder / "preprocess.json")
        return folder


def cases(names=()):
    shapes = TOP / "examples" / "shapes"
    found = [Case("shapes", shapes / "model.onnx", shapes / "calibration", 128, evaluation=shapes / "evaluation")]
    shared = support.shared_data()
    if shared is None:
        print("no ../shared/data: only our own example is measured", file=sys.stderr)
    else:
        models, data = shared / "models", shared / "datasets"
        found += [
            Case("resnet20", models / "resnet20-cifar10.onnx", data / "cifar10", 256),
            Case("squeezenet1.1", models / "squeezenet1.1.onnx", data / "imagenet-sample", 64,
                 "preprocess-squeezenet.json"),
            Case("mobilenetv2", models / "mobilenetv2.onnx", data / "imagenet-sample", 64),
            Case("mnist-8", models / "mnist-8.onnx", data / "mnist-t10k", 256),
        ]
    known = [c.name for c in found]
    for name in names:
        if name not in known:
            sys.exit(f"bench: no model '{name}'; there are: {', '.join(known)}")
    return [c for c in found if not names or c.name in names]


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "")
    isa = [f for f in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8") if f" {f}" in flags]
    return f"{model} ({' '.join(isa)}), {len(os.sched_getaffinity(0))} cores"
