# SPDX-License-Identifier: Apache-2.0
"""Trained networks and real data through the service: the accuracy, size and portability that the project promises."""
import shutil

import numpy as np
import onnx

from service import ServiceTestCase, main, onnxruntime, shared_data


class SharedModelsTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        cls.share_service()
        cls.models, cls.datasets = shared_data() / "models", shared_data() / "datasets"

    def quantize(self, model, *flags, timeout=600):
        job = self.service.run_job("--model", self.service.upload("model", self.models / model), *flags, timeout=timeout)
        return job, self.service.report(job["id"])

    def part_of(self, dataset, start, end, preprocess="preprocess.json"):
        """A dataset folder with some samples of a shared one."""
        folder = self.folder()
        for name in ("images.npy", "labels.npy"):
            np.save(folder / name, np.load(self.datasets / dataset / name, mmap_mode="r")[start:end])
        shutil.copy(self.datasets / dataset / preprocess, folder / "preprocess.json")
        return folder

    def metric(self, report, name):
        return next(m for m in report["metrics"] if m["name"] == name)

    def describe(self, model, report):
        size, text = report["size"], []
        for metric in report["metrics"]:
            if metric["name"] in ("top1", "same_top"):
                text.append(f"{metric['name']} {metric['original']:.2f} -> {metric['quantized']:.2f} "
                            f"({metric['low']:+.2f} to {metric['high']:+.2f})")
            elif metric["name"] == "sqnr_db":
                text.append(f"SQNR {metric['quantized']:.1f} dB")
        if "latency" in report:
            text.append("p50 {:.2f} -> {:.2f} ms".format(*(report["latency"][side]["p50_ms"]
                                                           for side in ("original", "quantized"))))
        print(f"{model:22} {100 * size['quantized_bytes'] / size['original_bytes']:.1f} % of the size, {', '.join(text)}")

    def test_resnet20_loses_no_accuracy(self):
        cifar = self.service.upload("dataset", self.datasets / "cifar10")
        job, report = self.quantize("resnet20-cifar10.onnx", "--method", "static", "--calibration", cifar,
                                    "--calibration-samples", "256", "--evaluation", cifar, "--evaluation-skip", "256",
                                    "--latency-runs", "50")
        self.describe("resnet20-cifar10", report)
        top1 = self.metric(report, "top1")
        self.assertEqual(top1["samples"], 5000 - 256)
        self.assertAlmostEqual(top1["original"], 80.2, delta=0.3)  # MANIFEST.md, on all 5,000
        self.assertGreaterEqual(top1["delta"], -0.3)
        size = report["size"]
        self.assertLessEqual(size["quantized_bytes"], 0.31 * size["original_bytes"])
        self.assertTrue(all(layer["method"] == "static" for layer in report["layers"]), "a layer was left out")
        folder = self.folder()
        self.service.ok("model", "download", job["result_model_id"], folder)
        theirs = onnxruntime("accuracy", folder / "resnet20-cifar10.onnx", self.datasets / "cifar10", "--skip", "256")
        print(f"in ONNX Runtime {theirs['top1']:.2f}, in the report {top1['quantized']:.2f}")
        self.assertAlmostEqual(theirs["top1"], top1["quantized"], delta=0.2)

    def test_mnist(self):
        data = self.service.upload("dataset", self.part_of("mnist-t10k", 0, 2000))
        _, report = self.quantize("mnist-8.onnx", "--method", "static", "--calibration", data, "--calibration-samples",
                                  "256", "--latency-runs", "20")
        self.describe("mnist-8", report)
        self.assertGreater(self.metric(report, "top1")["original"], 98)
        self.assertGreater(self.metric(report, "top1")["delta"], -0.5)

    def test_imagenet_networks(self):
        for model, preprocess in (("squeezenet1.1.onnx", "preprocess-squeezenet.json"),
                                  ("mobilenetv2.onnx", "preprocess.json")):
            with self.subTest(model=model):
                data = self.service.upload("dataset", self.part_of("imagenet-sample", 0, 96, preprocess))
                job, report = self.quantize(model, "--method", "static", "--calibration", data, "--calibration-samples", "32",
                                            "--latency-runs", "10", "--throughput-batch", "4")
                self.describe(model, report)
                self.assertEqual(self.metric(report, "top1")["samples"], 64)
                self.assertGreater(self.metric(report, "top1")["original"], 50)
                # 64 pictures tell little: this notices a broken model only.
                self.assertGreater(self.metric(report, "top1")["delta"], -10)
                folder = self.folder()
                self.service.ok("model", "download", job["result_model_id"], folder)
                theirs = onnxruntime("accuracy", folder / model, self.part_of("imagenet-sample", 32, 96, preprocess))
                self.assertAlmostEqual(theirs["top1"], self.metric(report, "top1")["quantized"], delta=100 * 2 / 64)

    def noise(self, name, samples=4):
        """A dataset of seeded noise for a model's inputs; a fixed first axis of 1 is the samples' too."""
        model, rng, arrays = onnx.load(self.models / f"{name}.onnx"), np.random.default_rng(1), {}
        constants = {t.name for t in model.graph.initializer}
        for value in model.graph.input:
            if value.name not in constants:
                shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
                arrays[value.name] = rng.standard_normal([samples, *shape[1:]]).astype(np.float32)
        folder = self.folder()
        np.savez(folder / "noise.npz", **arrays)
        return self.service.upload("dataset", folder)

    def test_other_networks_can_be_quantized(self):
        for name in ("yunet", "fastestdet", "super-resolution-10", "basic-pitch", "dtln-1", "dtln-2"):
            with self.subTest(model=name):
                _, report = self.quantize(f"{name}.onnx", "--method", "static", "--calibration", self.noise(name),
                                          "--calibration-batch", "4", "--latency-runs", "10", "--throughput-batch", "1")
                self.describe(name, report)
                self.assertTrue(any(layer["method"] == "static" for layer in report["layers"]))
                self.assertGreater(self.metric(report, "sqnr_db")["quantized"], 5)


if __name__ == "__main__":
    main(needs_data=True)
