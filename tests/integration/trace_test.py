# SPDX-License-Identifier: Apache-2.0
"""One trace from quantctl through quantd to the worker's log, in JSON lines with the ids of job and request."""
import json
import os
import re

from service import EXAMPLE, ServiceTestCase, main, wait_until

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


class TraceTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        service = cls.share_service(quantd_flags=["--log-format", "json"], worker_flags=["--log-format", "json"])
        cls.model = service.ok("model", "upload", EXAMPLE / "model.onnx")["id"]
        cls.quick = ("--model", cls.model, "--method", "dynamic", "--latency-runs", "10", "--no-cache")

    def submit(self, traceparent):
        previous = os.environ.get("TRACEPARENT")
        try:
            if traceparent is None:
                os.environ.pop("TRACEPARENT", None)
            else:
                os.environ["TRACEPARENT"] = traceparent
            return self.service.ok("job", "submit", *self.quick)
        finally:
            os.environ.pop("TRACEPARENT", None)
            if previous is not None:
                os.environ["TRACEPARENT"] = previous

    def lines(self, log, job_id):
        """Lines of a log about a job; every line must be one JSON object."""
        found = []
        for line in log.read_text().splitlines():
            record = json.loads(line)
            self.assertLessEqual({"time", "severity", "program", "source", "message"}, record.keys())
            self.assertRegex(record["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
            if record.get("job") == job_id:
                found.append(record)
            else:
                self.assertNotIn(job_id, line)
        return found

    def test_one_trace_runs_through_all_programs(self):
        job = self.submit(TRACEPARENT)
        self.assertEqual(job["traceparent"], TRACEPARENT)
        self.service.wait_job(job["id"], "SUCCEEDED")
        self.assertIn(f"trace      {TRACEPARENT}", self.service.quantctl("job", "show", job["id"]).out)
        server, worker = self.service.quantd.log, self.service.workers[0].log
        wait_until(lambda: any("ended" in r["message"] for r in self.lines(worker, job["id"])), "the worker's last line")
        for log, program in ((server, "quantd"), (worker, "quant-worker")):
            records = self.lines(log, job["id"])
            self.assertTrue(records, program)
            self.assertEqual({r["trace"] for r in records}, {TRACE_ID})
            self.assertEqual({r["program"] for r in records}, {program})
        story = [r for r in self.lines(server, job["id"])]
        messages = " | ".join(r["message"] for r in story)
        for wanted in ("submitted", "QUEUED to RUNNING", "RUNNING to SUCCEEDED"):
            self.assertIn(wanted, messages)
        submitted = next(r for r in story if "submitted" in r["message"])
        self.assertRegex(submitted["request"], r"^r-[a-z0-9]{16}$")
        ended = next(r for r in story if "to SUCCEEDED" in r["message"])
        self.assertNotEqual(ended["request"], submitted["request"])

    def test_what_is_not_well_formed_is_replaced(self):
        for bad in (None, "", "nonsense", TRACEPARENT.upper(), TRACEPARENT + "0", "ff" + TRACEPARENT[2:],
                    f"00-{'0' * 32}-b7ad6b7169203331-01"):
            job = self.submit(bad)
            made = job["traceparent"]
            self.service.wait_job(job["id"])
            self.assertTrue(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", made), made)
            self.assertNotIn(TRACE_ID, made)

    def test_a_process_that_dies_tells_the_ids_in_its_workers_log(self):
        endless = self.service.ok("job", "submit", "--model", self.model, "--method", "dynamic", "--latency-runs",
                                  "1000000", "--max-attempts", "1", "--no-cache")
        self.addCleanup(self.service.quantctl, "job", "cancel", endless["id"])
        wait_until(lambda: self.service.job(endless["id"]).get("progress", {}).get("phase") == "benchmark", "its benchmark")
        os.kill(self.service.child(), 9)
        self.service.wait_job(endless["id"], "DEAD")
        worker = self.service.workers[0].log
        records = wait_until(lambda: [r for r in self.lines(worker, endless["id"]) if "process ended" in r["message"]],
                             "the line about its end")
        self.assertEqual(records[0]["trace"], endless["traceparent"].split("-")[1])


if __name__ == "__main__":
    main()
