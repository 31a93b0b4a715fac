# SPDX-License-Identifier: Apache-2.0
"""client/python against a real quantd and worker: the same answers as quantctl, and what goes wrong."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(os.environ.get("QUANT_BIN", "build/dev/bin")).parent / "python"))

import quantd  # noqa: E402
from quantd import manifest, messages, recipe as recipes  # noqa: E402
from quantd.retry import Backoff  # noqa: E402
from quantd.v1 import artifacts_pb2, recipe_pb2, report_pb2  # noqa: E402

from service import EXAMPLE, PATIENCE, ServiceTestCase, file_digest, main, program, wait_until  # noqa: E402

UNKNOWN_MODEL = "m-0000000000000000"


def npy(path, size):
    """A dataset of `size` random bytes."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': (1, {size}), }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + os.urandom(size))
    return path


class WholeJobTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        cls.share_service(workers=1)
        cls.client = cls.enterClassContext(quantd.connect(cls.service.server))
        cls.sent = []
        cls.model = cls.client.upload_model(EXAMPLE / "model.onnx", name="shapes",
                                            progress=lambda done, total: cls.sent.append((done, total)))
        cls.calibration = cls.client.upload_dataset(EXAMPLE / "calibration")
        cls.evaluation = cls.client.upload_dataset(EXAMPLE / "evaluation")
        job = cls.client.submit(cls.model["id"], "static", calibration=cls.calibration["id"],
                                evaluation=cls.evaluation["id"], observer="percentile", percentile=99.9, skip=["*fc*"],
                                latency_runs=20, labels={"team": "vision"}, priority=2, timeout=600, name="small")
        cls.states = []
        cls.job = cls.client.wait(job["id"], progress=cls.states.append, timeout=PATIENCE)

    def test_a_job_from_upload_to_files(self):
        self.assertEqual(self.sent[-1], (437593, 437593))
        self.assertEqual(sorted(self.sent), self.sent)
        self.assertEqual(self.job["state"], "SUCCEEDED")
        self.assertEqual(self.states[-1], self.job)
        self.assertLessEqual([s["sequence"] for s in self.states], sorted(s["sequence"] for s in self.states))
        report = self.client.report(self.job["id"])
        top1 = next(m for m in report["metrics"] if m["name"] == "top1")
        self.assertEqual(top1["samples"], 640)
        self.assertLess(report["size"]["quantized_bytes"], report["size"]["original_bytes"] / 2)
        folder = self.service.folder / "python-result"
        moved = []
        got = self.client.download(self.job["id"], folder, progress=lambda done, total: moved.append((done, total)))
        self.assertEqual(got["id"], self.job["result_model_id"])
        self.assertEqual({f["path"]: f["digest"]["sha256"] for f in got["files"]},
                         {p.name: file_digest(p) for p in folder.iterdir()})
        self.assertEqual(moved[-1], (got["size_bytes"], got["size_bytes"]))
        moved.clear()
        self.client.download(got["id"], folder, progress=lambda *at: moved.append(at))
        self.assertEqual(moved, [], "what is there is not fetched again")

    def test_the_same_dicts_as_quantctl(self):
        self.assertEqual(self.client.get_job(self.job["id"]), self.service.job(self.job["id"]))
        self.assertEqual(self.client.report(self.job["id"]), self.service.report(self.job["id"]))
        self.assertEqual(self.client.list_models(), self.service.ok("model", "list")["items"])
        self.assertEqual(self.client.list_datasets(), self.service.ok("dataset", "list")["items"])
        self.assertEqual(self.client.get_dataset(self.evaluation["id"]),
                         self.service.ok("dataset", "show", self.evaluation["id"]))
        workers = self.service.ok("worker", "list")["items"]
        for worker in (mine := self.client.list_workers()) + workers:
            worker.pop("heartbeat_time")
        self.assertEqual(mine, workers)

    def test_lists_are_filtered_and_limited(self):
        self.assertEqual([j["id"] for j in self.client.list_jobs(labels={"team": "vision"}, states=["succeeded"])],
                         [self.job["id"]])
        self.assertEqual(self.client.list_jobs(labels={"team": "x"}), [])
        self.assertEqual(len(self.client.list_datasets(limit=1)), 1)
        with mock.patch.object(quantd.client, "_PAGE", 1):
            self.assertEqual(len(self.client.list_datasets()), len(self.service.ok("dataset", "list")["items"]))

    def test_submitting_again_is_answered_from_the_result_and_is_safe_to_repeat(self):
        spec = dict(calibration=self.calibration["id"], observer="min-max", latency_runs=-1)
        first = self.client.submit(self.model["id"], "static", request_id="11111111-2222-3333-4444-555555555555", **spec)
        again = self.client.submit(self.model["id"], "static", request_id="11111111-2222-3333-4444-555555555555", **spec)
        self.assertEqual(first["id"], again["id"])
        self.client.wait(first["id"], timeout=PATIENCE)
        cached = self.client.wait(self.client.submit(self.model["id"], "static", **spec)["id"], timeout=PATIENCE)
        self.assertEqual(cached["cached_from"], first["id"])
        self.client.delete_job(cached["id"])
        with self.assertRaises(quantd.NotFound):
            self.client.get_job(cached["id"])

    def test_other_kinds(self):
        job = self.client.submit(self.model["id"], kind="benchmark", evaluation=self.evaluation["id"], latency_runs=10,
                                 evaluation_samples=64, baseline=self.job["result_model_id"])
        self.assertEqual(job["spec"]["benchmark"]["evaluation"]["samples"], 64)
        self.client.cancel(job["id"])

    def test_a_tune_job_with_candidates(self):
        job = self.client.submit(self.model["id"], kind="tune", calibration=self.calibration["id"],
                                 evaluation=self.evaluation["id"], candidates=[{"dynamic": {}}, {"static_int8": {}}],
                                 max_drop=100, objective="latency", name="fast", evaluation_samples=32, latency_runs=5,
                                 calibration_samples=16)
        spec = job["spec"]["tune"]
        self.assertEqual((spec["objective"], spec["max_drop"], spec["output_name"]), ("LATENCY", 100, "fast"))
        self.assertEqual((spec["evaluation"]["samples"], spec["calibration"]["samples"]), (32, 16))
        tuning = self.client.report(self.client.wait(job["id"], timeout=PATIENCE)["id"])["tuning"]
        self.assertTrue(tuning["met"])
        self.assertEqual([t["name"] for t in tuning["trials"]], ["dynamic", "static"])
        with self.assertRaisesRegex(quantd.InvalidRequest, "objective"):
            self.client.submit(self.model["id"], kind="tune", evaluation=self.evaluation["id"], objective="beauty")

    def test_unknown_ids_and_bad_values_are_told_apart(self):
        for call in (lambda: self.client.get_model(UNKNOWN_MODEL), lambda: self.client.wait("j-0000000000000000"),
                     lambda: self.client.report("j-0000000000000000"), lambda: self.client.delete_model(UNKNOWN_MODEL),
                     lambda: self.client.submit(UNKNOWN_MODEL, "dynamic"),
                     lambda: self.client.download("j-0000000000000000", self.service.folder / "none")):
            with self.assertRaises(quantd.NotFound) as caught:
                call()
            self.assertIn("0000000000000000", str(caught.exception))
            self.assertEqual(caught.exception.code, "NOT_FOUND")
        self.assertFalse((self.service.folder / "none").exists())
        with self.assertRaisesRegex(quantd.InvalidRequest, "group_size"):
            self.client.submit(self.model["id"], "rtn", group_size=7)
        with self.assertRaises(quantd.Error) as caught:
            self.client.cancel(self.job["id"])
        self.assertEqual((caught.exception.code, caught.exception.reason), ("FAILED_PRECONDITION", "JOB_STATE_FORBIDS"))

    def test_a_job_that_fails_says_why(self):
        path = self.service.folder / "broken.onnx"
        path.write_bytes(b"this is no model")
        job = self.client.submit(self.client.upload_model(path)["id"], "dynamic")
        with self.assertRaises(quantd.JobFailed) as caught:
            self.client.wait(job["id"], timeout=PATIENCE)
        self.assertEqual(caught.exception.reason, "MODEL_INVALID")
        self.assertEqual(caught.exception.job["state"], "FAILED")
        self.assertEqual(self.client.wait(job["id"], check=False)["state"], "FAILED")
        with self.assertRaisesRegex(quantd.Error, "has made no model: it is FAILED"):
            self.client.download(job["id"], self.service.folder / "none")
        with self.assertRaises(quantd.Error) as caught:
            self.client.report(job["id"])
        self.assertEqual(caught.exception.reason, "NO_REPORT")

    def test_a_file_that_changes_while_it_is_sent_is_refused_and_nothing_is_made(self):
        path = npy(self.service.folder / "changing.npy", 3 << 20)
        found = manifest.find(path)
        with open(path, "r+b") as file:
            file.seek(2 << 20)
            file.write(b"other bytes")
        with mock.patch.object(manifest, "find", lambda _: found), self.assertRaises(quantd.LocalFileError) as caught:
            self.client.upload_dataset(path)
        self.assertEqual(caught.exception.reason, "BLOB_DIGEST_MISMATCH")
        self.assertIn("Did the file change?", str(caught.exception))
        path.write_bytes(path.read_bytes()[:1 << 20])
        with mock.patch.object(manifest, "find", lambda _: found), self.assertRaisesRegex(quantd.LocalFileError, "changed"):
            self.client.upload_dataset(path)
        self.assertNotIn("changing", [d["name"] for d in self.client.list_datasets()])

    def test_an_upload_goes_on_where_an_earlier_one_ended(self):
        path = npy(self.service.folder / "long.npy", 6 << 20)
        file, = manifest.find(path)
        digest = artifacts_pb2.Digest(sha256=file.sha256, size_bytes=file.size)
        self.client._artifacts.WriteBlob(iter([artifacts_pb2.WriteBlobRequest(
            upload_id=file.sha256, digest=digest, data=path.read_bytes()[:2 << 20])]))
        done = []
        self.client.upload_dataset(path, progress=lambda at, total: done.append(at))
        self.assertEqual((done[0], done[-1]), (3 << 20, file.size), "the first message goes after the 2 MiB that were there")

    def test_damaged_bytes_never_become_a_file(self):
        model = self.client.get_model(self.job["result_model_id"])
        folder = self.service.folder / "damaged"
        real = self.client._artifacts.ReadBlob

        def damaged(*args, **kwargs):
            for answer in real(*args, **kwargs):
                yield artifacts_pb2.ReadBlobResponse(data=bytes([answer.data[0] ^ 1]) + answer.data[1:])
        with mock.patch.object(self.client._artifacts, "ReadBlob", damaged), self.assertRaises(quantd.DataLoss):
            self.client.download(model["id"], folder)
        self.assertEqual(list(folder.iterdir()), [])
        # What an interrupted run left is taken up; where it is wrong, it is fetched afresh.
        entry = model["files"][0]
        part = folder / f".{entry['path']}.{entry['digest']['sha256'][:32]}.part"
        part.write_bytes(b"not the beginning of it")
        self.client.download(model["id"], folder)
        self.assertEqual(file_digest(folder / entry["path"]), entry["digest"]["sha256"])
        self.assertFalse(part.exists())
        (folder / entry["path"]).write_bytes(b"mine")
        with self.assertRaisesRegex(quantd.LocalFileError, "force=True"):
            self.client.download(model["id"], folder)
        self.client.download(model["id"], folder, force=True)
        self.assertEqual(file_digest(folder / entry["path"]), entry["digest"]["sha256"])

    def test_what_cannot_be_uploaded(self):
        folder = self.service.folder / "odd"
        folder.mkdir()
        for path, what in ((folder / "none.onnx", "no such file"), (folder, "has no files")):
            with self.assertRaisesRegex(quantd.LocalFileError, what):
                self.client.upload_model(path)
        (folder / "a.txt").write_text("text")
        with self.assertRaisesRegex(quantd.InvalidRequest, "no model here"):
            self.client.upload_model(folder)
        (folder / ".hidden").write_text("not sent")
        (folder / "out").symlink_to("/etc/passwd")
        with self.assertRaisesRegex(quantd.LocalFileError, "outside the folder"):
            self.client.upload_dataset(folder)
        (folder / "out").unlink()
        (folder / "in").symlink_to("a.txt")
        self.assertEqual([f.name for f in manifest.find(folder)], ["a.txt", "in"])

    def test_a_server_cannot_write_outside_the_folder(self):
        folder = self.service.folder / "safe"
        folder.mkdir()
        for name in ("../x", "/x", "a/../../x", "a\\b", "", "a//b", "a\nb"):
            with self.assertRaisesRegex(quantd.LocalFileError, "could lie outside"):
                manifest.place_below(folder, name)
        (folder / "link").symlink_to(self.service.folder)
        with self.assertRaisesRegex(quantd.LocalFileError, "not a link"):
            manifest.place_below(folder, "link/x")


class RecipeTest(ServiceTestCase):
    """Keywords mean what quantctl's flags of the same name mean."""

    def test_each_flag_is_a_keyword_that_makes_the_same_recipe(self):
        service = self.own_service(workers=0)
        client = self.enterContext(quantd.connect(service.server))
        model = client.upload_model(EXAMPLE / "model.onnx")["id"]
        data = client.upload_dataset(EXAMPLE / "calibration")["id"]
        help_text = subprocess.run([program("quantctl"), "job", "submit", "--help"], capture_output=True, text=True).stdout
        recipe_flags = [line.split()[0] for line in help_text.split("--method ", 1)[1].split("--server ")[0].splitlines()
                        if line.startswith("  --")]
        flags = {f.replace("[no-]", "")[2:] for f in recipe_flags}
        keywords = set().union(*(recipes.options_of(m) for m in recipes.METHODS))
        self.assertEqual({f.replace("-", "_") for f in flags}, keywords)

        cases = {
            "dynamic": dict(symmetry="asymmetric", weight_granularity="per-tensor", reduce_range="always", seed=7),
            "static": dict(activation_symmetry="symmetric", activation_type="int8", skip_first=True, skip=["a*", "re:b"],
                           op_types=["Conv", "Gemm"], bias_correction=True, observer="histogram-mse", bins=4096,
                           calibration_samples=64, calibration_batch=8, evaluation_samples=5, evaluation_skip=3,
                           evaluation_batch=4, latency_runs=-1, throughput_batch=2, threads=1, skip_error_profile=True,
                           cross_layer_equalization=False, format="onnx"),
        }
        for method, options in cases.items():
            given = []
            for name, value in options.items():
                flag = "--" + name.replace("_", "-")
                if isinstance(value, bool):
                    given.append(flag if value else "--no-" + flag[2:])
                elif isinstance(value, list) and name != "skip":
                    given += [flag, ",".join(value)]
                else:
                    for v in value if isinstance(value, list) else [value]:
                        given += [flag, str(v)]
            theirs = service.job(service.submit("--model", model, "--method", method, "--calibration", data, *given))
            ours = client.submit(model, method, calibration=data, no_cache=True, **options)
            self.assertEqual(ours["spec"], theirs["spec"])

    def test_dicts_and_files_and_what_overrides_what(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "recipe.json")
            path.write_text(json.dumps({"gptq": {"grid": {"bits": 3, "symmetry": "ASYMMETRIC"}, "compensate": False},
                                        "rules": [{"name": "lm_head", "skip": True}]}))
            recipe = recipes.apply(recipes.read(path), dict(bits=2, skip="a*"))
            self.assertEqual((recipe.gptq.grid.bits, recipe.gptq.grid.symmetry, recipe.gptq.compensate),
                             (2, recipe_pb2.SYMMETRY_ASYMMETRIC, False))
            self.assertEqual([r.name for r in recipe.rules], ["lm_head", "a*"])
            self.assertEqual(recipes.read(messages.to_dict(recipe)), recipe, "a report's recipe can be run again")
            text = pathlib.Path(folder, "recipe.txt")
            text.write_text("gptq { grid { bits: 3 } }")
            self.assertEqual(recipes.read(text).gptq.grid.bits, 3)
            text.write_text("gptq { bots: 3 }")
            with self.assertRaisesRegex(quantd.InvalidRequest, "recipe.txt.*bots"):
                recipes.read(text)
        for bad, what in ((dict(bots=3), "did you mean bits"), (dict(observer="entropy"), "no option 'observer' of method rtn"),
                          (dict(scale_search="best"), "one of min-max, mse, hessian-mse"), (dict(bits="four"), "does not fit")):
            recipe = recipe_pb2.Recipe()
            recipes.set_method(recipe, "rtn")
            with self.assertRaisesRegex(quantd.InvalidRequest, what):
                recipes.apply(recipe, bad)
        for bad, what in (({"rtn": {}, "gptq": {}}, "only one method"), ({"rtm": {}}, "no member 'rtm'"),
                          ({"rules": {}}, "rules wants a list")):
            with self.assertRaisesRegex(quantd.InvalidRequest, what):
                recipes.read(bad)

    def test_numbers_are_written_as_quantctl_writes_them(self):
        recipe = recipe_pb2.Recipe()
        recipe.gptq.damping = 0.01
        self.assertEqual(messages.to_dict(recipe)["gptq"]["damping"], 0.01)
        self.assertEqual(messages.to_dict(report_pb2.Metric(low=float("nan")))["low"], "NaN")


class GoingAwayTest(ServiceTestCase):

    def test_a_wait_survives_a_killed_server(self):
        service = self.own_service(workers=0)
        client = self.enterContext(quantd.connect(service.server))
        job = client.submit(client.upload_model(EXAMPLE / "model.onnx")["id"], "dynamic", latency_runs=-1)
        states, ended = [], []
        waiting = threading.Thread(target=lambda: ended.append(client.wait(job["id"], progress=states.append,
                                                                           timeout=PATIENCE)))
        with self.assertLogs("quantd", "WARNING") as logs:
            waiting.start()
            wait_until(lambda: states, "the first state")
            service.quantd.kill()
            wait_until(lambda: "lost the server" in str(logs.output), "the wait to notice")
            service.start_quantd()
            service.start_worker()
            waiting.join(PATIENCE)
        self.assertEqual([j["state"] for j in ended], ["SUCCEEDED"])
        self.assertIn("reached the server", str(logs.output))

    def test_an_upload_survives_a_killed_server(self):
        service = self.own_service(workers=0)
        client = self.enterContext(quantd.connect(service.server))
        path = npy(service.folder / "big.npy", 48 << 20)
        made, half, go_on = [], threading.Event(), threading.Event()

        def progress(done, total):
            if done > total / 2 and not half.is_set():
                half.set()
                go_on.wait(PATIENCE)
        uploading = threading.Thread(target=lambda: made.append(client.upload_dataset(path, progress=progress)))
        with self.assertLogs("quantd", "INFO") as logs:
            uploading.start()
            self.assertTrue(half.wait(PATIENCE))
            service.quantd.kill()
            service.start_quantd()
            go_on.set()
            uploading.join(PATIENCE)
        self.assertEqual([d["size_bytes"] for d in made], [path.stat().st_size])
        self.assertIn("trying again", str(logs.output))

    def test_a_wait_has_its_timeout_and_a_cancelled_job_is_not_a_success(self):
        service = self.own_service(workers=0)
        client = self.enterContext(quantd.connect(service.server))
        job = client.submit(client.upload_model(EXAMPLE / "model.onnx")["id"], "dynamic")
        with self.assertRaisesRegex(TimeoutError, "it goes on"):
            client.wait(job["id"], timeout=0.3)
        self.assertEqual(client.cancel(job["id"])["state"], "CANCELLED")
        with self.assertRaises(quantd.JobFailed) as caught:
            client.wait(job["id"])
        self.assertEqual(caught.exception.job["state"], "CANCELLED")
        self.assertEqual(client.retry(job["id"])["state"], "QUEUED")

    def test_a_server_that_comes_up_within_the_patience_is_found(self):
        service = self.own_service(workers=0)
        service.quantd.kill()
        client = self.enterContext(quantd.connect(service.server, patience=20))  # gRPC alone: up to 30 s
        found = []
        calling = threading.Thread(target=lambda: found.append(client.list_models()))
        with mock.patch.object(quantd.retry.Backoff, "wait", autospec=True, side_effect=quantd.retry.Backoff.wait) as waits:
            calling.start()
            wait_until(lambda: waits.call_count >= 2, "two refused calls")
            service.start_quantd()
            began = time.monotonic()
            calling.join(PATIENCE)
        self.assertEqual(found, [[]])
        print(f"found {time.monotonic() - began:.2f} s after it was up")

    def test_nobody_there_is_unreachable_within_the_patience(self):
        client = self.enterContext(quantd.connect("127.0.0.1:1", patience=0.5))
        with self.assertRaisesRegex(quantd.Unreachable, "127.0.0.1:1.*gave up after"):
            client.list_models()
        waits = []
        backoff = Backoff(60, longest=1.0, sleep=waits.append)
        for _ in range(6):
            backoff.wait(quantd.Error("full", "RESOURCE_EXHAUSTED", retry_after=0.3))
        self.assertTrue(all(0.3 <= w <= 1.25 for w in waits) and waits[-1] > 0.7, waits)


class CredentialsTest(ServiceTestCase):

    def token(self, tokens, *flags):
        return subprocess.run([program("quantd"), "token", "add", "--tokens", tokens, *flags], check=True, capture_output=True,
                              text=True).stdout.strip()

    def test_tokens_tenants_and_tls(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        tokens = folder / "tokens"
        ann = self.token(tokens, "--name", "ann", "--tenant", "acme")
        bob = self.token(tokens, "--name", "bob", "--tenant", "other")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem",
                        "-out", folder / "cert.pem"], check=True, capture_output=True)
        service = self.own_service(workers=0, quantd_flags=["--tokens", tokens, "--tls-cert", folder / "cert.pem", "--tls-key",
                                                            folder / "key.pem"])
        file = folder / "token"
        file.write_text(ann + "\n")
        ca = str(folder / "cert.pem")
        with mock.patch.dict(os.environ, QUANT_SERVER=service.server, QUANT_TOKEN_FILE=str(file), QUANT_TLS_CA=ca):
            client = self.enterContext(quantd.connect())
        model = client.upload_model(EXAMPLE / "model.onnx")
        other = self.enterContext(quantd.connect(service.server, token=bob, tls_ca=ca))
        self.assertEqual(other.list_models(), [])
        with self.assertRaises(quantd.PermissionDenied) as caught:
            other.get_model(model["id"])
        self.assertEqual(caught.exception.reason, "NOT_VISIBLE")
        with self.assertRaises(quantd.PermissionDenied) as caught:
            client.list_workers()
        self.assertEqual(caught.exception.reason, "ROLE_FORBIDS")
        for bad in (dict(token=ann[:-1] + ("0" if ann[-1] != "0" else "1")), dict()):
            with self.assertRaises(quantd.Unauthenticated):
                self.enterContext(quantd.connect(service.server, tls_ca=ca, **bad)).list_models()
        # A revoked token counts within a second, and the file is followed.
        subprocess.run([program("quantd"), "token", "revoke", "--tokens", tokens, "ann"], check=True, capture_output=True)

        def refused():
            with contextlib.suppress(quantd.Unauthenticated):
                client.list_models()
                return False
            return True
        wait_until(refused, "the revoked token to be refused")
        file.write_text(bob)
        self.assertEqual(client.list_models(), [])
        with self.assertRaises(quantd.Unreachable):
            self.enterContext(quantd.connect(service.server, token=bob, patience=0.3)).list_models()
        service.quantd.send(signal.SIGTERM)

    def test_what_cannot_be_connected_with(self):
        cases = ((dict(server="nowhere"), "HOST:PORT"), (dict(server="h:0"), "HOST:PORT"), (dict(server="http://h:1"), "HOST:PORT"),
                 (dict(server="h:1", token="a"), "in the clear"), (dict(server="localhost:1", token="a b"), "no token"),
                 (dict(server="h:1", token_file="/none"), "cannot read a token"),
                 (dict(server="h:1", tls_ca="/none"), "cannot read the certificate authority"),
                 (dict(server="h:1", tls_cert="c"), "belong together"), (dict(server=None), "QUANT_SERVER"))
        with mock.patch.dict(os.environ):
            for name in ("QUANT_SERVER", "QUANT_TOKEN", "QUANT_TOKEN_FILE"):
                os.environ.pop(name, None)
            for arguments, what in cases:
                with self.subTest(arguments), self.assertRaisesRegex(quantd.ConfigurationError, what):
                    quantd.connect(**arguments)
            quantd.connect("h:1", token="a", insecure_tokens=True).close()
            quantd.connect("[::1]:9000", token="a").close()


if __name__ == "__main__":
    main()
