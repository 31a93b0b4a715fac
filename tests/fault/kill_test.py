# SPDX-License-Identifier: Apache-2.0
"""kill -9 of every process in the middle of a job: it ends in the right state, with one result, whose bytes are those of
an undisturbed run. Processes are stopped (SIGSTOP) first where a test must be sure that the job is not over yet."""
import os
import signal
import threading

from service import (EXAMPLE, SETTLED, Process, Service, ServiceTestCase, gone, main, program, wait_until)


class KillTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        """An undisturbed run, for its bytes and for how long a benchmark must be to take a few seconds here."""
        with Service() as service:
            job = service.run_job(*cls.inputs(service), "--evaluation-samples", "64", "--latency-runs", "50")
            cls.undisturbed = service.download(job["result_model_id"], "undisturbed")
            latency = service.report(job["id"])["latency"]
            both = latency["original"]["mean_ms"] + latency["quantized"]["mean_ms"]
            cls.long = ("--evaluation-samples", "64", "--latency-runs", str(max(50, min(1_000_000, int(3000 / both)))))

    @staticmethod
    def inputs(service):
        """Uploads the example and returns the flags that name it."""
        return ("--method", "static", "--model", service.upload("model", EXAMPLE / "model.onnx"),
                "--calibration", service.upload("dataset", EXAMPLE / "calibration"),
                "--evaluation", service.upload("dataset", EXAMPLE / "evaluation"))

    def submit_and_wait_for_phase(self, *flags, phase="benchmark"):
        """A running job that its worker has told to be in `phase`, and the pid of its process."""
        service = self.service
        job_id = service.submit(*self.inputs(service), *self.long, *flags)

        def there():
            job = service.job(job_id)
            self.assertNotIn(job["state"], SETTLED, "the job was over before it could be disturbed")
            return job["state"] == "RUNNING" and job.get("progress", {}).get("phase") == phase
        wait_until(there, f"job {job_id} in phase {phase}")
        return job_id, self.service.child()

    def assert_undisturbed_result(self, job, attempt):
        service = self.service
        self.assertEqual(job["state"], "SUCCEEDED")
        self.assertEqual(job["attempt"], attempt)
        self.assertNotIn("error", {k for k, v in job.items() if v})
        made = [m["id"] for m in service.ok("model", "list", "--limit", "0")["items"] if m["source_job_id"] == job["id"]]
        self.assertEqual(made, [job["result_model_id"]], "published other than once")
        self.assertEqual(service.download(job["result_model_id"], f"result-{job['id']}"), self.undisturbed)
        self.assertEqual(service.report(job["id"])["provenance"]["result_digest"],
                         service.ok("model", "show", job["result_model_id"])["digest"])

    # ---- the job's process

    def test_a_killed_child_is_a_counted_attempt_and_the_job_runs_again(self):
        service = self.own_service()
        job_id, child = self.submit_and_wait_for_phase()
        os.kill(child, signal.SIGKILL)
        waiting = service.wait_job(job_id, ("RETRY_WAIT", "QUEUED", "RUNNING", "SUCCEEDED"))
        if waiting["state"] == "RETRY_WAIT":
            self.assertEqual(waiting["error"]["reason"], "CHILD_CRASHED")
            self.assertEqual(waiting["error"]["error_class"], "POISON")
        self.assert_undisturbed_result(service.wait_job(job_id, "SUCCEEDED"), attempt=2)
        self.assertTrue(service.workers[0].alive())

    def test_a_child_that_is_killed_each_time_makes_the_job_dead_until_retried(self):
        service = self.own_service()
        job_id, child = self.submit_and_wait_for_phase("--max-attempts", "2")
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: gone(child), "the first child to end")
        second = service.child()
        self.assertNotEqual(second, child)
        os.kill(second, signal.SIGKILL)
        job = service.wait_job(job_id, "DEAD")
        self.assertEqual(job["attempt"], 2)
        self.assertEqual(job["error"]["reason"], "CHILD_CRASHED")
        self.assertEqual(job["error"]["error_class"], "POISON")
        watched = service.quantctl("job", "watch", job_id)
        self.assertEqual(watched.code, 1, str(watched))
        self.assertIn("CHILD_CRASHED", watched.err)
        self.assertEqual(service.ok("job", "retry", job_id)["state"], "QUEUED")
        self.assert_undisturbed_result(service.wait_job(job_id, "SUCCEEDED"), attempt=1)

    # ---- the worker

    def test_a_killed_worker_takes_its_child_along_and_another_worker_finishes(self):
        service = self.own_service()
        job_id, child = self.submit_and_wait_for_phase()
        service.workers[0].kill()
        wait_until(lambda: gone(child), f"the dead worker's child {child} to end")
        job = service.wait_job(job_id, ("RETRY_WAIT", "QUEUED"))
        if job["state"] == "RETRY_WAIT":
            self.assertEqual(job["error"]["reason"], "LEASE_LOST")
        other = service.start_worker()
        job = service.wait_job(job_id, "SUCCEEDED")
        self.assertEqual(job["worker_id"], other.id)
        self.assert_undisturbed_result(job, attempt=2)
        self.assertTrue(any(w["lost"] for w in service.ok("worker", "list")["items"]))

    def test_a_worker_restarted_on_its_cache_takes_the_job_up_again(self):
        service = self.own_service()
        job_id, _ = self.submit_and_wait_for_phase()
        cache = service.folder / "cache-1"
        service.workers[0].kill()
        service.start_worker(cache=cache)
        self.assert_undisturbed_result(service.wait_job(job_id, "SUCCEEDED"), attempt=2)
        self.assertEqual([p.name for p in (cache / "jobs").glob("*")], [], "job folders were left behind")

    def test_a_worker_that_wakes_up_late_cannot_publish(self):
        service = self.own_service()
        job_id, child = self.submit_and_wait_for_phase()
        late = service.workers[0]
        late.send(signal.SIGSTOP)  # its child goes on and finishes
        other = service.start_worker()
        self.assertEqual(service.wait_job(job_id, "SUCCEEDED")["worker_id"], other.id)
        late.send(signal.SIGCONT)
        wait_until(lambda: gone(child), "the late worker's child to end")
        # The late worker has noticed: it lives, is listed, and takes the next job.
        wait_until(lambda: all(not w["lost"] for w in service.ok("worker", "list")["items"]), "the late worker to be heard")
        self.assert_undisturbed_result(service.job(job_id), attempt=2)
        service.ok("worker", "drain", other.id)
        self.assertEqual(other.wait(), 0)
        following = service.run_job(*self.inputs(service), "--latency-runs", "20")
        self.assertEqual(following["worker_id"], late.id)
        self.assert_undisturbed_result(service.job(job_id), attempt=2)

    def test_a_draining_worker_hands_its_job_back_uncounted(self):
        service = self.own_service(worker_flags=("--drain-grace", "100ms"))
        job_id, child = self.submit_and_wait_for_phase()
        os.kill(child, signal.SIGSTOP)  # so that it cannot finish meanwhile
        service.workers[0].send(signal.SIGTERM)
        self.assertEqual(service.workers[0].wait(), 0)
        self.assertTrue(gone(child))
        job = service.job(job_id)
        self.assertEqual(job["state"], "QUEUED")
        self.assertEqual(job["attempt"], 0)
        service.start_worker()
        self.assert_undisturbed_result(service.wait_job(job_id, "SUCCEEDED"), attempt=1)

    def test_a_draining_worker_lets_its_job_finish_in_time(self):
        service = self.own_service(worker_flags=("--drain-grace", "90s"))
        job_id, _ = self.submit_and_wait_for_phase()
        service.workers[0].send(signal.SIGTERM)
        self.assertEqual(service.workers[0].wait(), 0)
        self.assert_undisturbed_result(service.job(job_id), attempt=1)

    # ---- quantd

    def test_a_restart_of_quantd_keeps_the_running_job_and_its_watch(self):
        service = self.own_service()
        job_id, child = self.submit_and_wait_for_phase()
        watch = Process([program("quantctl"), "--server", service.server, "--output", "json", "job", "watch", job_id],
                        service.folder / "watch.log")
        self.addCleanup(watch.kill)
        wait_until(lambda: "benchmark" in watch.log.read_text(), "the watch to show the phase")
        os.kill(child, signal.SIGSTOP)  # so that it is still running afterwards
        service.quantd.kill()
        service.start_quantd()
        self.assertEqual(service.job(job_id)["state"], "RUNNING")
        os.kill(child, signal.SIGCONT)
        self.assert_undisturbed_result(service.wait_job(job_id, "SUCCEEDED"), attempt=1)
        self.assertEqual(watch.wait(), 0, watch.log.read_text())
        self.assertTrue(any('"SUCCEEDED"' in line for line in watch.lines()), watch.lines())

    def test_quantd_away_for_longer_than_the_lease(self):
        service = self.own_service()
        job_id, child = self.submit_and_wait_for_phase()
        os.kill(child, signal.SIGSTOP)
        service.quantd.kill()
        # A worker that cannot reach the server stops its children once their leases have run out.
        wait_until(lambda: gone(child), "the worker to stop the job whose lease ran out")
        service.start_quantd()
        self.assert_undisturbed_result(service.wait_job(job_id, "SUCCEEDED"), attempt=2)

    def test_jobs_acknowledged_before_a_kill_are_all_there_after_it(self):
        service = self.own_service(workers=0)
        inputs = self.inputs(service)
        ids, lock, failed = [], threading.Lock(), []

        def submit_until_the_server_dies():
            while True:
                result = service.quantctl("job", "submit", *inputs, "--no-cache", "--latency-runs", "-1", "--evaluation-samples", "32",
                                          "--output", "json")
                if result.code != 0:
                    failed.append(result)
                    return
                with lock:
                    ids.append(result.json["id"])
        threads = [threading.Thread(target=submit_until_the_server_dies) for _ in range(3)]
        for t in threads:
            t.start()
        try:
            wait_until(lambda: len(ids) >= 12, "a dozen jobs")
        finally:
            service.quantd.kill()
            for t in threads:
                t.join()
        for result in failed:
            self.assertEqual(result.code, 3, str(result))
        service.start_quantd()
        listed = [j["id"] for j in service.ok("job", "list", "--limit", "0")["items"]]
        self.assertEqual(set(ids) - set(listed), set(), "acknowledged jobs were lost")
        self.assertEqual(len(set(listed)), len(listed))
        service.start_worker(["--slots", "2"])
        for job_id in listed:
            self.assertEqual(service.wait_job(job_id, "SUCCEEDED")["attempt"], 1)
        made = [m["source_job_id"] for m in service.ok("model", "list", "--limit", "0")["items"] if m["source_job_id"]]
        self.assertEqual(sorted(made), sorted(listed), "a job published other than once")

    def test_an_upload_goes_on_after_quantd_was_killed(self):
        service = self.own_service(workers=0)
        folder = self.folder()
        size = 256 << 20
        with open(folder / "images.npy", "wb") as file:
            for _ in range(size >> 20):
                file.write(os.urandom(1 << 20))
        upload = Process([program("quantctl"), "--server", service.server, "--output", "json", "dataset", "upload", folder],
                         service.folder / "upload.log")
        self.addCleanup(upload.kill)

        # The server writes down how far an upload is each time that it has put a part of it on disk.
        wait_until(lambda: any((service.folder / "data").rglob("*.committed")), "the first part of the upload on the "
                   "server's disk", interval=0.002)
        self.assertTrue(upload.alive(), "the upload was over before it could be disturbed")
        service.quantd.kill()
        service.start_quantd()
        self.assertEqual(upload.wait(), 0, upload.log.read_text())
        dataset = service.ok("dataset", "list")["items"][0]
        self.assertEqual(dataset["size_bytes"], size)
        # What was on disk before the kill was not sent again.
        self.assertLess(service.metrics()["quant_upload_bytes_total"], size)


if __name__ == "__main__":
    main()
