# SPDX-License-Identifier: Apache-2.0
"""Our float32 outputs equal ONNX Runtime's on every convolutional network of the shared data: within 1e-4 of the largest
value of each output, before and after the passes that every job runs, and with the reference backend on one of them."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import onnx

from service import EXAMPLE, main, onnxruntime, program, shared_data

TOLERANCE = 1e-4

# Free axes, by model and axis; the first is 2 unless it is here.
SIZES = {"candy-style": {0: 1}}
# Values the inputs are drawn from, where standard normal ones mean nothing to the model: (low, high), uniform.
RANGES = {"mnist-8": (0, 255), "super-resolution-10": (0, 1), "yunet": (0, 255), "fastestdet": (0, 1), "basic-pitch": (-1, 1),
          "candy-style": (0, 255)}
MODELS = ("resnet20-cifar10", "squeezenet1.1", "squeezenet1.1-fp16", "mobilenetv2", "mnist-8", "fastestdet", "yunet",
          "super-resolution-10", "basic-pitch", "dtln-1", "dtln-2", "candy-style")


def make_inputs(path, seed):
    """Seeded arrays for each input of a model, {name: array}."""
    model = onnx.load(path, load_external_data=False)
    name, rng = pathlib.Path(path).stem, np.random.default_rng(seed)
    constants = {t.name for t in model.graph.initializer}
    inputs = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor, shape = value.type.tensor_type, []
        for axis, dim in enumerate(tensor.shape.dim):
            free = SIZES.get(name, {}).get(axis, 2 if axis == 0 else None)
            if not dim.HasField("dim_value") and free is None:
                raise AssertionError(f"{name}: axis {axis} of input {value.name} is free; give it a size in SIZES")
            shape.append(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else free)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        low, high = RANGES.get(name, (None, None))
        x = rng.standard_normal(shape) if low is None else rng.uniform(low, high, shape)
        inputs[value.name] = x.astype(dtype)
    return inputs


class Fp32MatchesOnnxRuntimeTest(unittest.TestCase):

    def folder(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="quant-test."))
        self.addCleanup(shutil.rmtree, folder, True)
        return folder

    def run_ours(self, path, inputs, *flags):
        """{output: array} of run_model, or the CompletedProcess when it fails."""
        folder = self.folder()
        (folder / "in").mkdir()
        (folder / "out").mkdir()
        np.savez(folder / "in" / "inputs.npz", **inputs)
        done = subprocess.run([program("run_model"), path, folder / "in", folder / "out", *flags], capture_output=True,
                              text=True, timeout=300)
        if done.returncode != 0:
            return done
        names = (folder / "out" / "names").read_text().split("\0")[:-1]
        return {name: np.load(folder / "out" / f"{i}.npy") for i, name in enumerate(names)}

    def compare(self, path, *flags, seed=1):
        inputs = make_inputs(path, seed)
        ours = self.run_ours(path, inputs, *flags)
        if isinstance(ours, subprocess.CompletedProcess):
            self.fail(f"{path.stem} {' '.join(flags)}: run_model exit {ours.returncode}: {ours.stderr}")
        folder = self.folder()
        np.savez(folder / "in.npz", **inputs)
        onnxruntime("run", path, "--inputs", folder / "in.npz", "--outputs", folder / "out.npz")
        worst = 0.0
        with np.load(folder / "out.npz") as theirs:
            self.assertEqual(set(ours), set(theirs.files))
            for name in theirs.files:
                want, got = theirs[name].astype(np.float64), ours[name].astype(np.float64)
                self.assertEqual(got.shape, want.shape, name)
                self.assertTrue(np.isfinite(want).all(), f"{name}: the inputs drive the model out of range")
                self.assertGreater(np.abs(want).max(), 0, f"{name}: nothing but zeros proves nothing")
                error = float(np.abs(got - want).max() / np.abs(want).max())
                worst = max(worst, error)
                self.assertLess(error, TOLERANCE, f"{path.stem} {' '.join(flags)}: output {name}")
        print(f"{path.stem:22} {' '.join(flags) or 'as imported':32} largest relative difference {worst:.1e}")

    def test_the_example_with_every_backend(self):
        for flags in ((), ("--prepare",), ("--prepare", "--threads", "2"), ("--backend", "reference"),
                      ("--backend", "reference", "--prepare")):
            with self.subTest(flags=flags):
                self.compare(EXAMPLE / "model.onnx", *flags)

    def test_every_network_of_the_shared_data(self):
        models = shared_data() / "models"
        for name in MODELS:
            for flags in ((), ("--prepare",)):
                with self.subTest(model=name, flags=flags):
                    self.compare(models / f"{name}.onnx", *flags)

    def test_unsupported_operators_are_listed_in_one_error(self):
        nodes = [onnx.helper.make_node("Frobnicate", ["x"], ["a"], "first", domain="com.example"),
                 onnx.helper.make_node("Relu", ["a"], ["b"], "known"),
                 onnx.helper.make_node("Unscramble", ["b"], ["y"], "second", domain="com.example")]
        value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
        model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", value[:1], value[1:]), ir_version=8, opset_imports=[
            onnx.helper.make_opsetid("", 13), onnx.helper.make_opsetid("com.example", 1)])
        path = self.folder() / "model.onnx"
        path.write_bytes(model.SerializeToString())
        done = self.run_ours(path, {"x": np.zeros((1, 4), np.float32)})
        self.assertIsInstance(done, subprocess.CompletedProcess)
        self.assertEqual(done.returncode, 4, done.stderr)
        for word in ("Frobnicate", "first", "Unscramble", "second"):
            self.assertIn(word, done.stderr)
        self.assertNotIn("known", done.stderr)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    main(needs_data=True)
