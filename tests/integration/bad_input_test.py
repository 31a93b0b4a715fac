# SPDX-License-Identifier: Apache-2.0
"""Hostile and broken input: each is one clear error from quantctl with exit status 1 or 2, and the server and its worker
run a good job afterwards as if nothing had been."""
import io
import os
import random
import socket
import struct
import subprocess
import unittest
import zipfile

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from service import EXAMPLE, ServiceTestCase, main, program, wait_until


def convolution(weights=None, op="Conv", shape=("batch", 3, 32, 32), domain=""):
    """A model of one node with 4 x 3 x 3 x 3 weights."""
    if weights is None:
        weights = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    node = helper.make_node(op, ["image", "w"], ["y"], "the_node", domain=domain)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [weights])
    opsets = [helper.make_opsetid("", 13)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def external_weights(location, offset=0, length=4 * 3 * 3 * 3 * 4):
    """Weights whose bytes are said to be in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3, 3, 3],
                         data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def images(count=8, shape=(32, 32, 3)):
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)


PREPROCESS = (EXAMPLE / "calibration" / "preprocess.json").read_text()


class BadInputTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        service = cls.share_service(workers=1)
        cls.model = service.upload("model", EXAMPLE / "model.onnx")
        cls.calibration = service.upload("dataset", EXAMPLE / "calibration")
        cls.processes = (service.quantd.pid, service.workers[0].pid)

    def tearDown(self):
        """Whatever a test sent, the same processes live and do their work."""
        service = self.service
        self.assertEqual((service.quantd.pid, service.workers[0].pid), self.processes)
        self.assertTrue(service.quantd.alive() and service.workers[0].alive())
        job = service.run_job("--model", self.model, "--method", "static", "--calibration", self.calibration,
                              "--calibration-samples", "16", "--evaluation-samples", "16", "--latency-runs", "-1",
                              "--skip-error-profile")
        self.assertEqual(job["attempt"], 1)

    # ---- helpers

    def write_model(self, model, name="model.onnx"):
        """A folder with the model in it; bytes are written as they are."""
        folder = self.folder()
        (folder / name).write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return folder

    def assert_model_fails(self, path, *words, reason=None, refused_at_upload=False):
        """Uploading it, or else quantizing it, is refused with all of `words` in the message."""
        upload = self.service.quantctl("model", "upload", path, "--output", "json")
        if upload.code != 0 or refused_at_upload:
            self.assert_refused(upload, *words)
            return
        self.assert_job_fails(("--model", upload.json["id"], "--method", "dynamic", "--latency-runs", "-1"), *words,
                              reason=reason)

    def assert_data_fails(self, path, *words, reason="DATA_MISMATCH", as_evaluation=False, model=None):
        """The same for a dataset of the example model."""
        upload = self.service.quantctl("dataset", "upload", path, "--output", "json")
        if upload.code != 0:
            self.assert_refused(upload, *words)
            return
        data = upload.json["id"]
        flags = ("--method", "dynamic", "--evaluation", data) if as_evaluation else \
            ("--method", "static", "--calibration", data)
        self.assert_job_fails(("--model", model or self.model, *flags, "--latency-runs", "-1"), *words, reason=reason)

    def assert_job_fails(self, flags, *words, reason=None):
        result = self.service.quantctl("job", "submit", *flags, "--watch")
        self.assert_refused(result, *words, codes=(1,))
        job_id = result.out.split()[1]
        job = self.service.job(job_id)
        self.assertEqual(job["state"], "FAILED", job)
        self.assertEqual(job["attempt"], 1, "an error of the input was tried again")
        self.assertEqual(job["error"]["error_class"], "FINAL", job)
        if reason:
            self.assertEqual(job["error"]["reason"], reason, job)
        message = job["error"]["message"]
        self.assertGreater(len(message), 20, message)
        self.assertNotIn(str(self.service.folder), message, "a path of the worker's machine")
        print(f"{self._testMethodName[5:]}: {message[:300]}")

    def example_data(self, name="images.npy", array=None, preprocess=PREPROCESS, labels=None):
        """A dataset folder for the example model."""
        folder = self.folder()
        if isinstance(array, bytes):
            (folder / name).write_bytes(array)
        else:
            np.save(folder / name, images() if array is None else array)
        if preprocess is not None:
            (folder / "preprocess.json").write_text(preprocess)
        if labels is not None:
            np.save(folder / "labels.npy", labels)
        return folder

    # ---- models

    def test_a_truncated_onnx_file(self):
        whole = (EXAMPLE / "model.onnx").read_bytes()
        for size in (len(whole) // 2, len(whole) - 1, 100):
            with self.subTest(size=size):
                self.assert_model_fails(self.write_model(whole[:size]) / "model.onnx", "model.onnx", reason="MODEL_INVALID")

    def test_an_empty_model_file(self):
        self.assert_model_fails(self.write_model(b"") / "model.onnx", "0 bytes", reason="MODEL_INVALID")

    def test_random_bytes_as_a_model(self):
        rng = random.Random(3)
        self.assert_model_fails(self.write_model(rng.randbytes(5000)) / "model.onnx", "onnx", reason="MODEL_INVALID")

    def test_flipped_bytes_of_a_model_fail_or_work_but_harm_nothing(self):
        rng = random.Random(4)
        whole = (EXAMPLE / "model.onnx").read_bytes()
        ids = []
        for _ in range(6):
            broken = bytearray(whole)
            for _ in range(20):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            upload = self.service.quantctl("model", "upload", self.write_model(bytes(broken)) / "model.onnx", "--output",
                                           "json")
            if upload.code == 0:
                ids.append(self.service.submit("--model", upload.json["id"], "--method", "dynamic", "--latency-runs", "-1",
                                               "--max-attempts", "1"))
        for job_id in ids:
            job = self.service.wait_job(job_id, ("SUCCEEDED", "FAILED"))
            self.assertEqual(job["attempt"], 1)

    def test_an_unknown_operator_is_named_with_its_node(self):
        model = convolution(op="FrobnicateV2", domain="com.example")
        self.assert_model_fails(self.write_model(model) / "model.onnx", "FrobnicateV2", "the_node",
                                reason="OPERATOR_UNSUPPORTED")

    def test_an_operator_that_no_operator_set_has(self):
        self.assert_model_fails(self.write_model(convolution(op="Konv")) / "model.onnx", "Konv")

    def test_a_declared_tensor_of_10_gigabytes(self):
        huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2_500_000, 1000], raw_data=b"few bytes")
        self.assert_model_fails(self.write_model(convolution(huge)) / "model.onnx", "w", "bytes", reason="MODEL_INVALID")

    def test_dimensions_whose_product_overflows(self):
        for dims in ([1 << 31, 1 << 31, 4], [-1, 4], [1 << 62, 1 << 62]):
            with self.subTest(dims=dims):
                tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"few bytes")
                self.assert_model_fails(self.write_model(convolution(tensor)) / "model.onnx", "w", reason="MODEL_INVALID")

    def test_a_declared_input_of_100_gigabytes(self):
        """Not refused by the importer: its run would need more memory than a plan may have."""
        model = convolution(shape=(1, 3, 100_000, 100_000))
        upload = self.service.upload("model", self.write_model(model) / "model.onnx")
        result = self.service.quantctl("job", "submit", "--model", upload, "--method", "dynamic", "--latency-runs", "-1",
                                       "--max-attempts", "1", "--watch")
        self.assert_refused(result, "memory", codes=(1,))

    def test_external_data_outside_the_folder(self):
        folder = self.write_model(convolution(external_weights("../secret.bin")))
        (folder / "weights.bin").write_bytes(bytes(432))
        self.assert_model_fails(folder, "../secret.bin", reason="MODEL_INVALID")

    def test_external_data_with_an_absolute_path(self):
        folder = self.write_model(convolution(external_weights("/etc/passwd", length=432)))
        (folder / "weights.bin").write_bytes(bytes(432))
        self.assert_model_fails(folder, "/etc/passwd", reason="MODEL_INVALID")

    def test_external_data_through_a_link_out_of_the_folder(self):
        folder = self.write_model(convolution(external_weights("weights.bin")))
        (folder / "weights.bin").symlink_to("/etc/passwd")
        self.assert_model_fails(folder, "weights.bin", refused_at_upload=True)

    def test_external_data_that_is_not_there_or_too_short(self):
        folder = self.write_model(convolution(external_weights("weights.bin")))
        self.assert_model_fails(folder, "weights.bin", reason="MODEL_INVALID")
        (folder / "weights.bin").write_bytes(bytes(100))
        self.assert_model_fails(folder, "weights.bin", "100", reason="MODEL_INVALID")

    def test_external_data_at_offsets_that_overflow(self):
        for offset, length in ((1 << 63, 432), (-8, 432), (0, 1 << 62), ((1 << 64) - 100, 432)):
            with self.subTest(offset=offset, length=length):
                folder = self.write_model(convolution(external_weights("weights.bin", offset, length)))
                (folder / "weights.bin").write_bytes(bytes(432))
                self.assert_model_fails(folder, "w", reason="MODEL_INVALID")

    def test_two_models_in_one_folder(self):
        folder = self.write_model(convolution())
        (folder / "other.onnx").write_bytes((folder / "model.onnx").read_bytes())
        self.assert_model_fails(folder, "other.onnx")

    def test_a_model_without_layers_to_quantize(self):
        """Nothing is wrong with it: the job succeeds and says that nothing was done."""
        node = helper.make_node("Relu", ["x"], ["y"], "only")
        graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        upload = self.service.upload("model", self.write_model(model) / "model.onnx")
        job = self.service.run_job("--model", upload, "--method", "dynamic", "--latency-runs", "-1")
        self.assertTrue(any("no layer" in note for note in self.service.report(job["id"])["notes"]))

    def test_weights_that_are_not_finite(self):
        weights = np.ones((4, 3, 3, 3), np.float32)
        weights[1, 2, 0, 0] = np.nan
        model = convolution(numpy_helper.from_array(weights, "w"))
        self.assert_model_fails(self.write_model(model) / "model.onnx", "nan")

    # ---- data

    def test_data_whose_shape_does_not_fit(self):
        self.assert_data_fails(self.example_data(array=images(shape=(16, 16, 3))), "16", "32")
        self.assert_data_fails(self.example_data(array=images(shape=(32, 32, 1))), "3")

    def test_an_array_whose_shape_does_not_fit(self):
        self.assert_data_fails(self.example_data(array=np.zeros((4, 3, 16, 16), np.float32), preprocess=None), "16", "32")
        self.assert_data_fails(self.example_data(array=np.zeros((4,), np.float32), preprocess=None), "32")

    def test_data_with_a_nan(self):
        array = np.zeros((8, 3, 32, 32), np.float32)
        array[5, 0, 3, 3] = np.nan
        self.assert_data_fails(self.example_data(array=array, preprocess=None), "5", "nan", reason="DATA_NOT_FINITE")
        array[5, 0, 3, 3] = np.inf
        self.assert_data_fails(self.example_data(array=array, preprocess=None), "5", "inf", reason="DATA_NOT_FINITE")

    def test_labels_outside_the_classes(self):
        for bad in (10, -1, 2**40):
            with self.subTest(label=bad):
                labels = np.array([0, 1, 2, bad, 4, 5, 6, 7], np.int64)
                self.assert_data_fails(self.example_data(labels=labels), str(bad), as_evaluation=True)

    def test_more_labels_than_samples(self):
        self.assert_data_fails(self.example_data(labels=np.zeros(9, np.int64)), "9", "8", as_evaluation=True)

    def test_labels_that_are_no_integers(self):
        self.assert_data_fails(self.example_data(labels=np.full(8, 0.5, np.float32)), "labels", as_evaluation=True)

    def test_data_without_samples(self):
        self.assert_data_fails(self.example_data(array=images(0)), "0")

    def test_more_samples_skipped_than_there_are(self):
        data = self.service.upload("dataset", self.example_data(labels=np.zeros(8, np.int64)))
        self.assert_job_fails(("--model", self.model, "--method", "dynamic", "--evaluation", data, "--evaluation-skip", "8",
                               "--latency-runs", "-1"), "8")

    def test_a_garbage_npy_header(self):
        good = io.BytesIO()
        np.save(good, images())
        good = good.getvalue()
        headers = {
            "no magic": b"\x93NUMPX" + good[6:],
            "version": good[:6] + b"\x09\x00" + good[8:],
            "length past the end": good[:8] + b"\xff\xff" + good[10:200],
            "shape": good.replace(b"(8, 32, 32, 3)", b"(8, 32, 32, x)"),
            "huge shape": good.replace(b"(8, 32, 32, 3), ", b"(9999999, 9999)"),
            "negative shape": good.replace(b"(8, 32, 32, 3)", b"(-8, 32, 32,3)"),
            "object dtype": good.replace(b"'|u1'", b"'|O8'"),
            "truncated data": good[:-100],
            "nothing": b"",
        }
        for name, content in headers.items():
            with self.subTest(header=name):
                self.assertNotEqual(content, good)
                self.assert_data_fails(self.example_data(array=content), "images.npy")

    def test_an_npz_that_unpacks_to_gigabytes(self):
        """4 GiB of zeros in 4 MB: refused by its declared sizes or bounded while reading, and quickly so."""
        folder = self.folder()
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False,
                                                      "shape": (350_000, 3, 32, 32)})
        with zipfile.ZipFile(folder / "data.npz", "w", zipfile.ZIP_DEFLATED) as archive, \
                archive.open("image.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(4102):
                member.write(bytes(1 << 20))
        self.assertLess((folder / "data.npz").stat().st_size, 8 << 20)
        upload = self.service.upload("dataset", folder)
        job = self.service.submit("--model", self.model, "--method", "static", "--calibration", upload, "--latency-runs",
                                  "-1", "--max-attempts", "1")
        job = self.service.wait_job(job, ("FAILED", "DEAD"))
        self.assertIn(job["error"]["reason"], ("DATA_MISMATCH", "OUT_OF_MEMORY"))
        print(job["error"]["message"][:300])

    def test_an_npz_whose_directory_lies(self):
        buffer = io.BytesIO()
        np.savez(buffer, image=np.zeros((4, 3, 32, 32), np.float32))
        good = buffer.getvalue()
        lies = {
            "truncated": good[:len(good) // 2],
            "no end record": good[:-22],
            "offset past the end": good[:-6] + struct.pack("<I", 1 << 31) + good[-2:],
            "names another array": good.replace(b"image.npy", b"imaqe.npx"),
            "climbs out": good.replace(b"image.npy", b"../ge.npy"),
            "other bytes": good[:4000] + b"\xff" * 40 + good[4040:],
        }
        for name, content in lies.items():
            with self.subTest(lie=name):
                folder = self.folder()
                (folder / "data.npz").write_bytes(content)
                self.assert_data_fails(folder, "data.npz")

    def test_a_broken_preprocess_file(self):
        for name, text in {"no JSON": "{", "no object": "[]", "unknown layout": '{"layout": "NQHC"}',
                           "wrong channels": PREPROCESS.replace("[", "[1.0, ", 1),
                           "division by zero": PREPROCESS.replace("0.275", "0"),
                           "leaves the folder": PREPROCESS.replace("images.npy", "../../../etc/passwd"),
                           "nested": "[" * 20000 + "]" * 20000}.items():
            with self.subTest(preprocess=name):
                self.assertNotEqual(text, PREPROCESS)
                self.assert_data_fails(self.example_data(preprocess=text), "preprocess.json")

    def test_a_safetensors_file_whose_header_lies(self):
        for name, content in {"length": struct.pack("<Q", 1 << 60) + b"{}", "no JSON": struct.pack("<Q", 4) + b"{{{{",
                              "short": b"\x01",
                              "offsets": _safetensors('{"image":{"dtype":"F32","shape":[1,3,32,32],"data_offsets":[0,99999999]}}'),
                              "negative": _safetensors('{"image":{"dtype":"F32","shape":[-1,3],"data_offsets":[0,12]}}')}.items():
            with self.subTest(lie=name):
                folder = self.folder()
                (folder / "data.safetensors").write_bytes(content)
                self.assert_data_fails(folder, "data.safetensors")

    # ---- files and names

    def test_paths_that_are_no_model(self):
        folder = self.folder()
        for path, word in ((folder / "missing.onnx", "missing.onnx"), (folder, "no"), ("/dev/zero", "/dev/zero"),
                           ("/proc/self/mem", "")):
            result = self.service.quantctl("model", "upload", path)
            self.assert_refused(result, word)

    def test_200_nested_folders(self):
        """Longer than a path in a manifest may be: refused, with the limit named, before anything is sent."""
        folder = self.write_model(convolution())
        deep = folder
        for _ in range(200):
            deep = deep / "nest"
        deep.mkdir(parents=True)
        (deep / "weights.bin").write_bytes(b"x")
        self.assert_model_fails(folder, "512", refused_at_upload=True)

    def test_names_with_control_characters(self):
        for name in ("a\nb.bin", "a\x1b[31mb.bin", "a\x7f.bin", "back\\slash.bin"):
            with self.subTest(name=name):
                folder = self.write_model(convolution())
                (folder / name).write_bytes(b"x")
                result = self.service.quantctl("model", "upload", folder)
                self.assert_refused(result)
                self.assertNotIn("\x1b", result.err, "an escape sequence reached the terminal")

    def test_a_name_that_is_not_utf8(self):
        folder = self.write_model(convolution())
        with open(os.fsencode(folder) + b"/\xff\xfe.bin", "wb") as file:
            file.write(b"x")
        self.assert_refused(self.service.quantctl("model", "upload", folder), "utf-8")

    def test_a_name_of_the_model_that_is_too_long(self):
        result = self.service.quantctl("model", "upload", EXAMPLE / "model.onnx", "--name", "n" * 200)
        self.assert_refused(result, "128")

    def test_a_named_pipe_in_the_folder_is_left_out(self):
        folder = self.write_model(convolution())
        os.mkfifo(folder / "pipe")
        result = self.service.quantctl("model", "upload", folder)
        self.assertEqual(result.code, 0, str(result))
        self.assertIn("pipe", result.err)

    # ---- resources and the wire

    def test_a_job_beyond_its_time_ends_with_timeout(self):
        job = self.service.run_job("--model", self.model, "--method", "dynamic", "--latency-runs", "1000000", "--timeout",
                                   "2s", "--max-attempts", "1", state="DEAD")
        self.assertEqual(job["error"]["reason"], "TIMEOUT")
        self.assertIn("attempt_timeout", job["error"]["message"])
        wait_until(lambda: not self.service.workers[0].children(), "the job's process to end")

    def test_calls_that_no_client_of_ours_makes(self):
        done = subprocess.run([program("hostile_client")], env=self.service.environment(), capture_output=True, text=True,
                              errors="replace", timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout[-8000:] + done.stderr[-2000:])
        self.assertNotIn("SKIPPED", done.stdout)

    def test_noise_on_the_ports(self):
        rng = random.Random(5)
        host, port = self.service.server.rsplit(":", 1)
        metrics = self.service.metrics_address.rsplit(":", 1)
        sent = [b"", b"\x00" * 100, rng.randbytes(5000), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(5000), b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
                b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"]
        for address in ((host, int(port)), (metrics[0], int(metrics[1]))):
            for content in sent:
                with socket.create_connection(address, timeout=10) as connection:
                    try:
                        connection.sendall(content)
                        connection.shutdown(socket.SHUT_WR)
                        connection.settimeout(1)
                        connection.recv(1000)
                    except OSError:
                        pass
        self.assertEqual(self.service.http("/healthz")[0], 200)
        self.assertEqual(self.service.quantctl("job", "list").code, 0)


class MemoryTest(ServiceTestCase):

    @unittest.skipIf("ASAN_OPTIONS" in os.environ, "the sanitizer's own memory would count")
    def test_a_job_beyond_its_memory_says_so_and_the_worker_lives_on(self):
        service = self.own_service(worker_flags=("--memory", "60MiB"))
        big = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4096, 4096], raw_data=bytes(4 * 4096 * 4096))
        node = helper.make_node("MatMul", ["x", "w"], ["y"], "big")
        graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4096])],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4096])], [big])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        folder = self.folder()
        (folder / "big.onnx").write_bytes(model.SerializeToString())
        job = service.submit("--model", service.upload("model", folder / "big.onnx"), "--method", "dynamic",
                             "--latency-runs", "-1", "--max-attempts", "1")
        job = service.wait_job(job, ("FAILED", "DEAD"))
        self.assertEqual(job["error"]["reason"], "OUT_OF_MEMORY")
        self.assertIn("60 MiB", job["error"]["message"])
        self.assertIn("--memory", job["error"]["message"])
        print(job["error"]["message"])
        small = folder / "small.onnx"
        small.write_bytes(convolution(shape=(1, 3, 8, 8)).SerializeToString())
        service.run_job("--model", service.upload("model", small), "--method", "dynamic", "--latency-runs", "-1")
        self.assertTrue(service.workers[0].alive())


def _safetensors(header):
    return struct.pack("<Q", len(header)) + header.encode() + bytes(64)


if __name__ == "__main__":
    main()
