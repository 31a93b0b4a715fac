# SPDX-License-Identifier: Apache-2.0
"""The checker accepts a good history, and rejects each way in which one can be bad."""
import collections
import copy
import unittest

import checker
from history import FAIL, OK, UNKNOWN, Operation

REFERENCE = {"dynamic": {"model.onnx": "aa"}}
SENT = {"model.onnx": "bb"}


def job(job_id, state="SUCCEEDED", sequence=9, **more):
    return {"id": job_id, "state": state, "sequence": sequence, "attempt": 1, "result_model_id": "",
            "spec": {"max_attempts": 3, "labels": {}}, **more}


def model(model_id, source="", files=None):
    return {"id": model_id, "source_job_id": source,
            "files": [{"path": p, "digest": {"sha256": d}} for p, d in (files or {}).items()]}


def event(state, sequence, result=""):
    return {"state": state, "sequence": sequence, "attempt": 1, "result": result}


def op(kind, args, outcome=OK, value=None, invoked=1.0, completed=2.0):
    return Operation("client", kind, args, invoked, completed, outcome, value)


class CheckerTest(unittest.TestCase):

    def setUp(self):
        """A run in which all went well: two uploads, a job that succeeded, one that was cancelled."""
        done = job("j-1", result_model_id="m-2")
        self.watched = [event("QUEUED", 1), event("RUNNING", 2), event("RUNNING", 3), event("SUCCEEDED", 9, "m-2")]
        self.history = [
            op("upload", {"what": "model", "files": SENT}, value="m-1"),
            op("upload", {"what": "dataset", "files": {"x.npy": "cc"}}, value="d-1"),
            op("submit", {"request_id": "r-1", "recipe": "dynamic"}, UNKNOWN),
            op("submit", {"request_id": "r-1", "recipe": "dynamic"}, value="j-1"),
            op("submit", {"request_id": "r-2", "recipe": "dynamic"}, value="j-2"),
            op("submit", {"request_id": "r-3", "recipe": "dynamic"}, FAIL),
            op("watch", {"job": "j-1"}, value=self.watched),
            op("show", {"job": "j-1"}, value=done),
            op("cancel", {"job": "j-2"}, value=job("j-2", "CANCELLED", 2)),
            op("download", {"model": "m-2", "job": "j-1"}, value=REFERENCE["dynamic"]),
            op("download", {"model": "m-1"}, value=SENT),
        ]
        self.final = checker.Final(
            jobs={"j-1": done, "j-2": job("j-2", "CANCELLED", 2)},
            models={"m-1": model("m-1", files=SENT), "m-2": model("m-2", "j-1", REFERENCE["dynamic"])},
            datasets={"d-1": model("d-1", files={"x.npy": "cc"})},
            files={"m-1": SENT, "m-2": REFERENCE["dynamic"]}, metrics={}, bad_blobs=[], crashes=[])
        self.fit_metrics()

    def fit_metrics(self):
        states = collections.Counter(j["state"] for j in self.final.jobs.values())
        self.final.metrics = {f'quant_jobs{{state="{s.lower()}"}}': states[s] for s in checker.EDGES}
        self.final.metrics['quant_artifacts{kind="model"}'] = len(self.final.models)
        self.final.metrics['quant_artifacts{kind="dataset"}'] = len(self.final.datasets)

    def assert_only(self, rule, fit_metrics=True):
        if fit_metrics:
            self.fit_metrics()
        found = checker.check(self.history, self.final, REFERENCE)
        self.assertEqual({v.split(":")[0] for v in found}, {rule} if rule else set(), found)

    def watch(self, *events, outcome=UNKNOWN):
        self.history.append(op("watch", {"job": "j-1"}, outcome, list(events)))

    def test_a_good_history(self):
        self.assert_only(None)

    def test_a_lost_job(self):
        del self.final.jobs["j-2"]
        self.assert_only("lost")

    def test_a_job_that_was_only_shown_is_lost(self):
        self.history.append(op("show", {"job": "j-9"}, value=job("j-9", "QUEUED", 1)))
        self.assert_only("lost")

    def test_a_job_that_was_denied_for_a_while(self):
        denied = op("show", {"job": "j-1"}, FAIL)
        denied.note = "quantctl: there is no job j-1"
        self.history.append(denied)
        self.assert_only("lost")

    def test_two_jobs_for_one_request(self):
        self.final.jobs["j-3"] = job("j-3", "CANCELLED")
        self.history.append(op("submit", {"request_id": "r-1", "recipe": "dynamic"}, value="j-3"))
        self.assert_only("request")

    def test_two_jobs_of_a_request_that_was_never_answered(self):
        for name in ("j-3", "j-4"):
            self.final.jobs[name] = job(name, "CANCELLED", spec={"max_attempts": 3, "labels": {"request": "r-7"}})
        self.assert_only("request")

    def test_a_job_that_never_ends(self):
        for state in ("QUEUED", "RUNNING", "RETRY_WAIT", "CANCELLING"):
            self.final.jobs["j-3"] = job("j-3", state)
            self.assert_only("unfinished")

    def test_dead_before_the_attempts_are_used_up(self):
        self.final.jobs["j-3"] = job("j-3", "DEAD", attempt=3)
        self.assert_only(None)
        self.final.jobs["j-3"] = job("j-3", "DEAD", attempt=2)
        self.assert_only("unfinished")

    def test_a_fault_that_became_a_final_failure(self):
        self.final.jobs["j-3"] = job("j-3", "FAILED")
        self.assert_only("unfinished")

    def test_published_twice(self):
        self.final.models["m-3"] = model("m-3", "j-1", REFERENCE["dynamic"])
        self.assert_only("published")

    def test_succeeded_without_a_model(self):
        self.final.jobs["j-3"] = job("j-3", result_model_id="")
        self.final.files[""] = None
        self.assert_only("published")

    def test_published_by_a_job_that_did_not_succeed(self):
        self.final.models["m-3"] = model("m-3", "j-2")
        self.assert_only("published")

    def test_published_by_a_job_that_is_not_there(self):
        self.final.models["m-3"] = model("m-3", "j-9")
        self.assert_only("published")

    def test_a_success_that_was_taken_back(self):
        self.final.jobs["j-1"] = job("j-1", "CANCELLED")
        del self.final.models["m-2"]
        self.assert_only("changed")

    def test_a_success_with_another_result(self):
        self.final.jobs["j-1"]["result_model_id"] = "m-3"
        self.final.models["m-3"] = dict(self.final.models.pop("m-2"), id="m-3")
        self.final.files["m-3"] = REFERENCE["dynamic"]
        self.history = [o for o in self.history if o.kind != "show"]
        self.assert_only("changed")

    def test_one_sequence_with_two_states(self):
        self.watch(event("RETRY_WAIT", 3))
        self.assert_only("changed")

    def test_a_sequence_beyond_the_last(self):
        self.watch(event("QUEUED", 10))
        self.assert_only("changed")

    def test_a_cancelled_job_that_ran_after_all(self):
        self.final.jobs["j-2"] = job("j-2", result_model_id="m-3")
        self.final.models["m-3"] = model("m-3", "j-2", REFERENCE["dynamic"])
        self.final.files["m-3"] = REFERENCE["dynamic"]
        self.assert_only("cancel")
        self.history.append(op("retry", {"job": "j-2"}, UNKNOWN, completed=float("inf")))
        self.assert_only(None)

    def test_a_running_job_that_was_cancelled_and_is_dead(self):
        self.final.jobs["j-3"] = job("j-3", "DEAD", attempt=3)
        self.history.append(op("cancel", {"job": "j-3"}, value=job("j-3", "CANCELLING", 4)))
        self.assert_only("cancel")

    def test_a_lost_upload(self):
        del self.final.datasets["d-1"]
        self.assert_only("upload")

    def test_an_upload_with_other_bytes(self):
        self.final.files["m-1"] = {"model.onnx": "ee"}
        self.assert_only("upload")

    def test_a_dataset_with_another_manifest(self):
        self.final.datasets["d-1"] = model("d-1", files={"x.npy": "ee"})
        self.assert_only("upload")

    def test_a_result_with_other_bytes(self):
        self.final.files["m-2"] = {"model.onnx": "ee"}
        self.assert_only("result")

    def test_a_download_with_other_bytes(self):
        self.history.append(op("download", {"model": "m-1"}, value={"model.onnx": "ee"}))
        self.assert_only("result")

    def test_a_watch_that_goes_back(self):
        self.watch(event("RUNNING", 3), event("RUNNING", 2))
        self.assert_only("watch")

    def test_a_watch_on_a_way_that_does_not_exist(self):
        self.final.jobs["j-3"] = job("j-3", "CANCELLED", 99)
        for states in (("QUEUED", "DEAD"), ("QUEUED", "RETRY_WAIT"), ("CANCELLING", "RUNNING"), ("RETRY_WAIT", "RUNNING")):
            history = copy.copy(self.history)
            self.history.append(op("watch", {"job": "j-3"}, UNKNOWN,
                                   [event(states[0], 11), event(states[1], 12)]))
            self.assert_only("watch")
            self.history = history

    def test_a_watch_may_skip_states(self):
        self.final.jobs["j-3"] = job("j-3", "CANCELLED", 99)
        self.history.append(op("watch", {"job": "j-3"}, UNKNOWN, [event("QUEUED", 1), event("DEAD", 3)]))
        self.assert_only(None)

    def test_nothing_follows_a_success(self):
        self.assertEqual([to for start, to in checker.DISTANCE if start == "SUCCEEDED"], [])

    def test_a_watch_that_ends_too_early(self):
        self.watch(event("QUEUED", 1), event("RUNNING", 2), outcome=OK)
        self.assert_only("watch")

    def test_a_gauge_that_disagrees(self):
        self.final.metrics['quant_jobs{state="queued"}'] = 1
        self.assert_only("metrics", fit_metrics=False)

    def test_a_corrupt_blob(self):
        self.final.bad_blobs.append("sha256/ab/abcd")
        self.assert_only("blob")

    def test_a_process_that_died_by_itself(self):
        self.final.crashes.append("quantd ended with -6")
        self.assert_only("crash")


class TableTest(unittest.TestCase):

    def test_the_edges_are_those_of_the_server(self):
        """Read from the comment in job_state.h, which job_state_test.cc holds to the code."""
        import pathlib
        header = pathlib.Path(__file__).resolve().parents[2] / "server" / "queue" / "job_state.h"
        rows = [line[2:].split() for line in header.read_text().splitlines() if line.startswith("//   ")]
        states = rows[0][3:]
        edges = {s: set() for s in states}
        for row in rows[1:]:
            for state, after in zip(states, row[1:], strict=True):
                if after not in ("-", state):
                    edges[state].add(after)
        self.assertEqual(edges, checker.EDGES)


if __name__ == "__main__":
    unittest.main()
