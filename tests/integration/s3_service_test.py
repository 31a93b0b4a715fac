# SPDX-License-Identifier: Apache-2.0
"""quantd with its blobs in S3, on a real S3 server (OpenStack Swift): a whole job; what survives kill -9 of quantd and of
the S3 server in the middle of an upload; what is refused."""
import os
import subprocess
import sys
import time

from service import EXAMPLE, Process, Service, ServiceTestCase, file_digest, main, program, wait_until
from swift_server import SwiftServer

BIG = 160 << 20


class S3Test(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        cls.swift = SwiftServer().start()
        cls.addClassCleanup(cls.swift.stop)

    def setUp(self):
        self.prefix = self.id().rsplit(".", 1)[1].replace("_", "-")

    def credentials(self, secret=None):
        path = self.folder() / "credentials"
        path.write_text(f"[default]\naws_access_key_id = {self.swift.access_key}\n"
                        f"aws_secret_access_key = {secret or self.swift.secret_key}\n")
        return path

    def blobs(self, **credentials):
        return ["--blobs", f"s3://{self.swift.bucket}/{self.prefix}?endpoint={self.swift.endpoint}"
                           f"&credentials={self.credentials(**credentials)}"]

    def big_dataset(self):
        """A folder with an array of BIG random bytes."""
        folder = self.folder()
        with open(folder / "input.npy", "wb") as file:
            header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': (1, {BIG}), }}".encode()
            header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
            file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
            for _ in range(BIG >> 20):
                file.write(os.urandom(1 << 20))
        return folder

    def start_upload(self, service, folder):
        """quantctl in the middle of uploading: past the first commits."""
        self.log = self.folder() / "quantctl.log"
        upload = Process([program("quantctl"), "dataset", "upload", folder, "--output", "json"], self.log,
                         env=service.environment())
        self.addCleanup(upload.kill)
        wait_until(lambda: service.metrics().get("quant_upload_bytes_total", 0) > 80 << 20, "half of the upload",
                   interval=0.01)
        self.assertTrue(upload.alive(), "the upload was over before it could be disturbed")
        return upload

    def assert_finished_and_whole(self, service, upload, folder):
        self.assertEqual(upload.wait(), 0, self.log.read_text())
        dataset = service.ok("dataset", "list")["items"][0]
        [file] = dataset["files"]
        self.assertEqual(file["digest"]["sha256"], file_digest(folder / "input.npy"))
        # The bytes that S3 has are those: read by another client, hashed by another program.
        key = f"/{self.swift.bucket}/{self.prefix}/sha256/{file['digest']['sha256'][:2]}/{file['digest']['sha256']}"
        copy = self.folder() / "copy"
        copy.write_bytes(self.swift.request("GET", key))
        self.assertEqual(file_digest(copy), file["digest"]["sha256"])

    def test_a_whole_job_and_a_restart(self):
        service = self.own_service(quantd_flags=self.blobs())
        job = service.run_job("--method", "static", "--model", service.upload("model", EXAMPLE / "model.onnx"),
                              "--calibration", service.upload("dataset", EXAMPLE / "calibration"),
                              "--evaluation", service.upload("dataset", EXAMPLE / "evaluation"),
                              "--evaluation-samples", "32", "--latency-runs", "20")
        service.quantd.kill()
        service.start_quantd()
        model = service.ok("model", "show", job["result_model_id"])
        self.assertEqual(service.download(model["id"], "result"),
                         {f["path"]: f["digest"]["sha256"] for f in model["files"]})
        self.assertGreater(service.metrics()["quant_cas_objects"], 3)
        self.assertFalse((service.folder / "data" / "blobs").exists(), "bytes are in S3 only")

    def test_upload_goes_on_after_quantd_is_killed(self):
        service, folder = self.own_service(workers=0, quantd_flags=self.blobs()), self.big_dataset()
        upload = self.start_upload(service, folder)
        service.quantd.kill()
        service.start_quantd()
        self.assert_finished_and_whole(service, upload, folder)
        self.assertEqual(service.metrics()["quant_upload_resumed_total"], 1)
        self.assertLess(service.metrics()["quant_upload_bytes_total"], BIG - (32 << 20), "it began again")

    def test_upload_goes_on_after_the_s3_server_is_killed(self):
        service, folder = self.own_service(workers=0, quantd_flags=self.blobs()), self.big_dataset()
        upload = self.start_upload(service, folder)
        self.swift.kill()
        try:
            time.sleep(1)  # an outage, not a hiccup
            self.assertEqual(service.ok("dataset", "list"), {"items": []}, "what needs no blobs goes on")
        finally:
            self.swift.restart()
        self.assert_finished_and_whole(service, upload, folder)

    def test_a_rotten_byte_is_told_and_nothing_is_left_of_the_file(self):
        service = self.own_service(workers=0, quantd_flags=self.blobs())
        before = set(self.swift.object_files())
        model = service.upload("model", EXAMPLE / "model.onnx")
        wanted = (EXAMPLE / "model.onnx").read_bytes()
        [rotten] = [p for p in self.swift.object_files() if p not in before and p.stat().st_size == len(wanted)]
        with open(rotten, "r+b") as file:
            file.seek(len(wanted) // 2)
            file.write(bytes([wanted[len(wanted) // 2] ^ 1]))
        folder = self.folder() / "download"
        self.assert_refused(service.quantctl("model", "download", model, folder), "hash")
        self.assertEqual([p for p in folder.rglob("*") if p.is_file()], [])

    def test_wrong_credentials_end_quantd_with_a_reason(self):
        done = subprocess.run([program("quantd"), "--listen", "127.0.0.1:0", "--data", self.folder(),
                               *self.blobs(secret="guess")], capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"SignatureDoesNotMatch", done.stderr)
        self.assertNotIn(b"guess", done.stderr)

    def test_a_second_data_folder_may_not_use_the_same_prefix(self):
        blobs = self.blobs()
        self.own_service(workers=0, quantd_flags=blobs)
        done = subprocess.run([program("quantd"), "--listen", "127.0.0.1:0", "--data", self.folder(), *blobs],
                              capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"choose another prefix", done.stderr)


if __name__ == "__main__":
    if not SwiftServer.installed():
        print("skipped: Swift is not installed")
        sys.exit(77)
    main()
