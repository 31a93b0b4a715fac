# SPDX-License-Identifier: Apache-2.0
"""Models and datasets that expire, through quantctl, a real quantd and a real worker."""
import time
import unittest

from service import EXAMPLE, ServiceTestCase, main, wait_until

FLAGS = ("--method", "dynamic", "--latency-runs", "-1", "--evaluation-samples", "8")


class RetentionTest(ServiceTestCase):
    def _gone(self, kind, what):
        return self.service.quantctl(kind, "show", what, "--output", "json").code == 1

    def _expire_time(self, kind, what):
        return self.service.ok(kind, "show", what).get("expire_time")

    def test_a_model_expires_a_pinned_one_does_not_and_the_metrics_tell(self):
        service = self.own_service(workers=0)
        began = time.time()
        model = service.ok("model", "upload", EXAMPLE / "model.onnx", "--expires", "2s")["id"]
        pinned = service.ok("model", "upload", EXAMPLE / "model.onnx", "--name", "kept", "--expires", "2s")["id"]
        data = service.ok("dataset", "upload", EXAMPLE / "calibration", "--expires", "2s")["id"]
        forever = service.upload("dataset", EXAMPLE / "evaluation")
        self.assertTrue(service.ok("model", "pin", pinned)["pinned"])
        shown = service.quantctl("model", "show", model)
        self.assertIn("expires  20", shown.out, str(shown))
        self.assertIn("expires  never, it is pinned", service.quantctl("model", "show", pinned).out)
        listed = {m["id"]: m for m in service.ok("model", "list")["items"]}
        self.assertTrue(listed[pinned]["pinned"] and not listed[model]["pinned"])
        wait_until(lambda: self._gone("model", model) and self._gone("dataset", data), "model and dataset expired")
        self.assertGreaterEqual(time.time() - began, 2, "too early")
        self.assertFalse(self._gone("model", pinned))
        self.assertFalse(self._gone("dataset", forever))
        metrics = service.metrics()
        self.assertEqual(metrics['quant_artifacts_expired_total{kind="model"}'], 1)
        self.assertEqual(metrics['quant_artifacts_expired_total{kind="dataset"}'], 1)
        self.assertGreater(metrics["quant_artifacts_expired_bytes_total"], 0)
        storage = service.ok("storage", "show")["server"]
        self.assertEqual(storage["expired"], 2)
        self.assertEqual(storage["blob_bytes"] - storage["named_bytes"], metrics["quant_artifacts_expired_bytes_total"])
        self.assertIn("reclaimable", service.quantctl("storage", "show").out)
        # A pin is durable, and its end leaves time to think again.
        service.quantd.kill()
        service.start_quantd()
        self.assertTrue(service.ok("model", "show", pinned)["pinned"])
        until = service.ok("model", "unpin", pinned)["expire_time"]
        self.assertGreater(until, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3000)))
        service.ok("model", "unpin", pinned, "--expires", "1s")
        wait_until(lambda: self._gone("model", pinned), "the unpinned model expired")

    def test_what_a_queued_job_names_stays_and_an_expired_result_is_no_answer(self):
        service = self.own_service(workers=0)
        model = service.upload("model", EXAMPLE / "model.onnx", "--expires", "3s")
        job = service.submit("--model", model, *FLAGS, cache=True)
        # The time is put off for the job, and then the job itself keeps the model.
        kept = self._expire_time("model", model)
        self.assertGreater(kept, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3000)))
        service.ok("model", "unpin", model, "--expires", "1s")
        marker = service.ok("dataset", "upload", EXAMPLE / "calibration", "--expires", "1s")["id"]
        wait_until(lambda: self._gone("dataset", marker), "a sweep after the model's time")
        self.assertFalse(self._gone("model", model), "taken from under a queued job")
        service.start_worker()
        done = service.wait_job(job)
        wait_until(lambda: self._gone("model", model), "expired once the job had ended")
        # Its result has no time, the report stays, and the same work is answered from it as long as it is there.
        model = service.upload("model", EXAMPLE / "model.onnx")
        again = service.wait_job(service.submit("--model", model, *FLAGS, cache=True))
        self.assertEqual(again["cached_from"], job)
        for result in (done["result_model_id"], again["result_model_id"]):
            service.ok("model", "unpin", result, "--expires", "1s")
            wait_until(lambda result=result: self._gone("model", result), "the result expired")
        ran = service.wait_job(service.submit("--model", model, *FLAGS, cache=True))
        self.assertEqual((ran.get("cached_from"), ran["attempt"]), ("", 1), "answered with an expired result")
        self.assertEqual(service.report(job)["size"]["original_bytes"], service.report(ran["id"])["size"]["original_bytes"])

    def test_the_servers_default_is_for_uploads_and_results(self):
        service = self.own_service(workers=1, quantd_flags=["--artifact-retention", "1000h"])
        model = service.upload("model", EXAMPLE / "model.onnx")
        self.assertTrue(self._expire_time("model", model))
        job = service.run_job("--model", model, *FLAGS)
        self.assertTrue(self._expire_time("model", job["result_model_id"]))
        short = service.ok("model", "upload", EXAMPLE / "model.onnx", "--name", "short", "--expires", "1s")["id"]
        wait_until(lambda: self._gone("model", short), "its own time counts")
        refused = service.quantctl("model", "upload", EXAMPLE / "model.onnx", "--expires", "1000000h")
        self.assert_refused(refused, "ttl", "100 years")


if __name__ == "__main__":
    main()
