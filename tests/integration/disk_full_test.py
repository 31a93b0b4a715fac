# SPDX-License-Identifier: Apache-2.0
"""A data folder on a disk that fills up (a tmpfs): what is refused says so, nothing acknowledged is lost, nothing is torn,
and everything goes on by itself once there is room. Needs the right to mount."""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from service import EXAMPLE, Process, Service, ServiceTestCase, file_digest, main, program, wait_until

DISK = 256 << 20
BIG = 130 << 20


@contextlib.contextmanager
def small_disk():
    folder = tempfile.mkdtemp(prefix="quant-disk.")
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=True, capture_output=True)
        try:
            yield pathlib.Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class DiskFullTest(ServiceTestCase):

    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.disk = stack.enter_context(small_disk())

    def on_small_disk(self, workers=0):
        # The later --data wins.
        return self.own_service(workers=workers, quantd_flags=["--data", self.disk / "data", "--reserve", "8MiB"])

    def fill(self):
        """Takes the last byte of the disk."""
        with open(self.disk / "filler", "ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def free(self):
        (self.disk / "filler").unlink()

    def big_file(self):
        path = self.folder() / "input.npy"
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': (1, {BIG}), }}".encode()
        header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + os.urandom(BIG))
        return path

    def test_an_upload_that_does_not_fit_is_refused_before_a_byte_is_written(self):
        service, path = self.on_small_disk(), self.big_file()
        service.upload("dataset", path)
        self.assertGreater(sum(p.stat().st_size for p in self.disk.rglob("*") if p.is_file()), BIG)
        with open(path, "r+b") as file:  # another content
            file.seek(200)
            file.write(b"other")
        self.assert_refused(service.quantctl("dataset", "upload", path), "no room for", str(path.stat().st_size), "delete")
        self.assertEqual(list((self.disk / "data" / "uploads").iterdir()), [])
        self.assertEqual(service.metrics()['quant_quota_rejections_total{resource="disk"}'], 1)

    def test_a_disk_that_fills_in_the_middle_of_an_upload(self):
        service, path = self.on_small_disk(), self.big_file()
        log = self.folder() / "quantctl.log"
        upload = Process([program("quantctl"), "dataset", "upload", path], log, env=service.environment())
        self.addCleanup(upload.kill)
        wait_until(lambda: service.metrics().get("quant_upload_bytes_total", 0) > 40 << 20, "a third", interval=0.005)
        upload.send(signal.SIGSTOP)
        self.fill()
        upload.send(signal.SIGCONT)
        self.assertEqual(upload.wait(), 1, log.read_text())
        self.assertIn("make room", log.read_text())
        self.assertEqual(service.ok("dataset", "list"), {"items": []})
        self.assertEqual(service.http("/healthz")[0], 200)
        # Also a restart in this state.
        service.quantd.kill()
        self.free()
        service.start_quantd()
        again = service.quantctl("dataset", "upload", path, "--output", "json")
        self.assertEqual(again.code, 0, str(again))
        self.assertIn("resuming", again.err)
        self.assertEqual(again.json["files"][0]["digest"]["sha256"], file_digest(path))
        stored = self.disk / "data" / "blobs" / "sha256"
        self.assertEqual([file_digest(p) for p in stored.rglob("*") if p.is_file()], [file_digest(path)])

    def test_a_full_disk_refuses_jobs_and_loses_none(self):
        service = self.on_small_disk()
        flags = ["--kind", "quantize", "--method", "dynamic", "--model", service.upload("model", EXAMPLE / "model.onnx")]
        accepted = [service.submit(*flags, "--name", "before")]
        self.fill()
        refused = None
        for i in range(2000):  # the log of the database has some room left inside
            result = service.quantctl("job", "submit", *flags, "--name", f"job-{i}", "--output", "json")
            if result.code != 0:
                refused = result
                break
            accepted.append(result.json["id"])
        self.assert_refused(refused, "full", "make room")
        self.assertEqual(self.job_ids(service), sorted(accepted), "reading goes on")
        service.quantd.kill()
        self.free()
        service.start_quantd()
        self.assertEqual(self.job_ids(service), sorted(accepted), "acknowledged is durable, refused is not there")
        accepted.append(service.submit(*flags, "--name", "after"))
        service.start_worker()
        for job_id in accepted:
            self.assertEqual(service.wait_job(job_id)["state"], "SUCCEEDED")

    def job_ids(self, service):
        return sorted(job["id"] for job in service.ok("job", "list", "--limit", "0")["items"])

    def test_a_running_job_waits_for_room_to_publish_its_result(self):
        service = self.on_small_disk(workers=1)
        inputs = ("--method", "static", "--model", service.upload("model", EXAMPLE / "model.onnx"),
                  "--calibration", service.upload("dataset", EXAMPLE / "calibration"),
                  "--evaluation", service.upload("dataset", EXAMPLE / "evaluation"))
        job_id = service.submit(*inputs, "--evaluation-samples", "32", "--latency-runs", "300")
        child = service.child()
        os.kill(child, signal.SIGSTOP)
        self.fill()
        os.kill(child, signal.SIGCONT)
        wait_until(lambda: service.metrics().get('quant_quota_rejections_total{resource="disk"}', 0) > 0,
                   "the result to be refused for lack of room")
        self.assertEqual(service.job(job_id)["state"], "RUNNING")
        self.free()
        job = service.wait_job(job_id)
        self.assertEqual((job["state"], job["attempt"]), ("SUCCEEDED", 1), "no attempt was lost")
        model = service.ok("model", "show", job["result_model_id"])
        self.assertEqual(service.download(model["id"], "result"),
                         {f["path"]: f["digest"]["sha256"] for f in model["files"]})


if __name__ == "__main__":
    try:
        with small_disk():
            pass
    except (subprocess.CalledProcessError, OSError):
        print("skipped: this user may not mount a tmpfs")
        sys.exit(77)
    main()
