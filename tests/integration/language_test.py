# SPDX-License-Identifier: Apache-2.0
"""Language models through the service: methods and formats on a small random checkpoint, what others make of the files,
jobs that are killed, and bad input."""
import json
import os
import signal
import struct

import numpy as np

from hf_checkpoints import CASES
from service import EXAMPLE, SETTLED, Service, ServiceTestCase, main, wait_until

VOCAB = 96
STORIES = EXAMPLE.parent / "stories"


def llama(folder, name="llama", **changes):
    """The tiny Llama checkpoint in folder/name, with other values in its config.json."""
    case = next(c for c in CASES if c.config["model_type"] == "llama")
    case.make(folder / name)
    config = folder / name / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return folder / name


def tokens(folder, documents=24, length=48, limit=VOCAB, name="tokens.npy"):
    """Documents of token ids, as an array."""
    rng = np.random.default_rng(5)
    np.save(folder / name, rng.integers(0, limit, [documents, length]).astype(np.int32))
    return folder / name


class LanguageTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        cls.share_service()

    def inputs(self, **changes):
        folder = self.folder()
        model = self.service.upload("model", llama(folder, **changes))
        data = self.service.upload("dataset", tokens(folder))
        return ["--model", model, "--calibration", data, "--calibration-samples", "16", "--evaluation", data,
                "--evaluation-skip", "16", "--latency-runs", "4"]

    def quantize(self, inputs, *flags, state="SUCCEEDED"):
        job = self.service.run_job(*inputs, *flags, state=state, timeout=300)
        return job, self.service.report(job["id"]) if state == "SUCCEEDED" else None

    def value(self, report, name):
        return next(m["quantized"] for m in report["metrics"] if m["name"] == name)

    def test_methods_report_what_they_did(self):
        inputs = self.inputs()
        divergence = {}
        for method, flags in {"rtn": [], "gptq": [], "awq": ["--group-size", "32"], "nf4": [], "hqq": ["--group-size", "32"]}.items():
            grid = [] if method == "nf4" or flags else ["--group-size", "64"]
            form = ["--format", "onnx"] if method != "nf4" else []
            job, report = self.quantize(inputs, "--method", method, *flags, *grid, *form)
            with self.subTest(method=method):
                layers = report["layers"]
                self.assertEqual(len(layers), 7 * 2)  # q, k, v, o, gate, up, down of two blocks
                self.assertTrue(all(layer["bits"] == 4 for layer in layers))
                self.assertTrue(all(0 < layer["relative_error"] < 0.5 for layer in layers), layers)
                self.assertGreater(report["size"]["bits_per_weight"], 4)
                self.assertLess(report["size"]["bits_per_weight"], 5)
                divergence[method] = self.value(report, "kl_divergence")
                self.assertGreater(divergence[method], 0)
                self.assertGreater(self.value(report, "same_top"), 50)
        print({m: round(v, 5) for m, v in divergence.items()})
        self.assertLess(divergence["gptq"], divergence["rtn"])

    def written(self, inputs, form, *flags):
        """The folder of a job's result, after the checks that hold for every format."""
        job, report = self.quantize(inputs, *flags, "--format", form)
        self.assertGreater(self.value(report, "kl_divergence"), 0)
        folder = self.service.folder / f"out-{job['id']}"
        self.service.ok("model", "download", job["result_model_id"], folder)
        return folder

    def measured_again(self, folder, inputs):
        """The divergence of a downloaded checkpoint, uploaded as a model of its own."""
        again = self.service.upload("model", folder)
        job = self.service.run_job("--kind", "benchmark", "--model", again, "--baseline", inputs[1], "--evaluation", inputs[3],
                                   "--evaluation-skip", "16", "--evaluation-samples", "8", "--latency-runs", "4", timeout=300)
        return self.value(self.service.report(job["id"]), "kl_divergence")

    def test_every_format_is_written_and_read_back(self):
        text = self.service.upload("dataset", STORIES / "calibration")
        inputs = ["--model", self.service.upload("model", STORIES / "model"), "--calibration", text, "--calibration-samples",
                  "16", "--evaluation", text, "--evaluation-skip", "16", "--evaluation-samples", "8", "--latency-runs", "4"]
        for form, flags, method in (("gptq", ["--method", "gptq"], "gptq"),
                                    ("awq", ["--method", "awq"], "awq"),
                                    ("bitsandbytes", ["--method", "nf4"], "bitsandbytes"),
                                    ("compressed-tensors", ["--method", "rtn"], "compressed-tensors")):
            with self.subTest(format=form):
                folder = self.written(inputs, form, *flags)
                config = json.loads((folder / "config.json").read_text())
                self.assertEqual(config["quantization_config"]["quant_method"], method)
                self.assertTrue((folder / "tokenizer.json").exists())
                self.assertLess(self.measured_again(folder, inputs), 0.1)
        folder = self.written(inputs, "gguf", "--method", "rtn", "--group-size", "32")
        self.assertEqual((folder / "model.gguf").read_bytes()[:4], b"GGUF")
        self.written(inputs, "gguf", "--method", "gptq", "--act-order", "dynamic")  # columns in another order than the file's
        folder = self.written(inputs, "onnx", "--method", "gptq", "--bits", "3", "--group-size", "32")
        self.assertTrue((folder / "model.onnx").exists())

    def test_formats_that_cannot_hold_a_layer_say_so_before_any_work(self):
        inputs = self.inputs()  # 172 outputs are no multiple of 32; there is no tokenizer
        for form, flags, word in (("gptq", ["--method", "gptq", "--group-size", "-1"], "172"),
                                  ("awq", ["--method", "rtn", "--symmetry", "asymmetric", "--group-size", "32"], "172"),
                                  ("gguf", ["--method", "rtn", "--group-size", "32"], "tokenizer")):
            with self.subTest(format=form):
                job, _ = self.quantize(inputs, *flags, "--format", form, state="FAILED")
                self.assertEqual(job["error"]["error_class"], "FINAL")
                self.assertEqual(job["error"]["phase"], "load")
                self.assertIn(word, job["error"]["message"])

    def test_a_grid_that_a_format_cannot_hold_is_refused_before_any_work(self):
        inputs = self.inputs()
        job, _ = self.quantize(inputs, "--method", "awq", "--group-size", "128", state="FAILED")
        self.assertIn("group", job["error"]["message"])
        self.assertRegex(job["error"]["message"], "172|64")

    def test_bad_input_is_a_clear_error(self):
        folder = self.folder()
        good = self.inputs()

        def job_error(model, data, *words):
            submitted = self.service.quantctl("job", "submit", "--no-cache", "--method", "gptq", "--model", model, "--calibration", data,
                                              "--format", "onnx", "--group-size", "32", "--watch", timeout=300)
            self.assert_refused(submitted, *words, codes=(1, 2))

        data = good[3]
        for name, words, changes in (
                ("huge", ["hidden_size"], {"hidden_size": 1 << 40}),
                ("negative", ["num_hidden_layers"], {"num_hidden_layers": -3}),
                ("unknown", ["model_type", "llama"], {"model_type": "imaginary"}),
                ("vocabulary", ["embed_tokens"], {"vocab_size": 97})):
            with self.subTest(config=name):
                job_error(self.service.upload("model", llama(folder, name, **changes)), data, *words)

        def spoiled(name, spoil):
            """The checkpoint with another header: spoil(header) returns its bytes."""
            path = llama(folder, name) / "model.safetensors"
            raw = path.read_bytes()
            size = struct.unpack("<Q", raw[:8])[0]
            path.write_bytes(spoil(json.loads(raw[8:8 + size]), raw[8 + size:]))
            return self.service.upload("model", folder / name)

        def with_header(header, data):
            text = json.dumps(header).encode()
            return struct.pack("<Q", len(text)) + text + data

        def overlapping(header, data):
            first, second = list(header)[:2]
            header[second]["data_offsets"] = header[first]["data_offsets"]
            return with_header(header, data)

        def reversed_range(header, data):
            header[next(iter(header))]["data_offsets"].reverse()
            return with_header(header, data)

        def outside(header, data):
            entry = header[list(header)[-1]]
            entry["data_offsets"][1] += 1 << 30
            return with_header(header, data)

        for name, spoil in (("overlap", overlapping), ("reversed", reversed_range), ("outside", outside),
                            ("header", lambda h, d: struct.pack("<Q", 1 << 63) + d)):
            with self.subTest(safetensors=name):
                job_error(spoiled(name, spoil), data, "model.safetensors")

        model = good[1]
        for name, words, make in (
                ("beyond", ["token", "96"], lambda f: tokens(f, limit=500)),
                ("short", ["token"], lambda f: tokens(f, documents=1, length=1)),
                ("text", ["tokenizer"], lambda f: (f / "story.txt").write_text("once upon a time") and f / "story.txt")):
            with self.subTest(data=name):
                place = self.folder()
                job_error(model, self.service.upload("dataset", make(place)), *words)
        # And afterwards a good job.
        self.quantize(good, "--method", "gptq", "--format", "onnx", "--group-size", "32")


class KilledLanguageJobTest(ServiceTestCase):

    def test_a_killed_job_goes_on_from_its_last_block_with_the_same_bytes(self):
        folder = self.folder()
        # More blocks and samples, so that there is time to kill it in the middle.
        checkpoint = llama(folder)
        data = tokens(folder, documents=64, length=256)
        flags = ["--method", "gptq", "--format", "compressed-tensors", "--group-size", "-1", "--descent-passes", "20", "--latency-runs", "-1",
                 "--calibration-samples", "60"]
        with Service() as calm:
            job = calm.run_job("--model", calm.upload("model", checkpoint), "--calibration", calm.upload("dataset", data),
                               *flags, timeout=600)
            undisturbed = calm.download(job["result_model_id"], "undisturbed")
        service = self.own_service()
        job_id = service.submit("--model", service.upload("model", checkpoint), "--calibration",
                                service.upload("dataset", data), *flags, "--max-attempts", "5")
        resume = service.folder / "cache-1" / "resume" / job_id
        for kill in range(2):
            # The first time in the first block, the second after it.
            wait_until(lambda: (resume / f"state-000{kill}").exists() if kill else
                       service.job(job_id).get("progress", {}).get("phase") == "quantize", f"block {kill}", interval=0.002)
            self.assertNotIn(service.job(job_id)["state"], SETTLED, "the job was over before it could be disturbed")
            os.kill(service.child(), signal.SIGKILL)
            wait_until(lambda: service.job(job_id)["attempt"] > kill + 1 or service.job(job_id)["state"] in SETTLED,
                       "the next attempt")
        job = service.wait_job(job_id, "SUCCEEDED", timeout=600)
        self.assertGreaterEqual(job["attempt"], 3)
        self.assertEqual(service.download(job["result_model_id"], "result"), undisturbed)
        notes = service.report(job_id).get("notes", [])
        self.assertTrue(any("resumed after block" in n for n in notes), notes)  # 0, or 1 where the kill came late
        self.assertFalse(resume.exists(), "the resume point outlived its job")


if __name__ == "__main__":
    main()
