# SPDX-License-Identifier: Apache-2.0
"""From submission to start with an idle worker, over 200 jobs. Prints the percentiles; the times decide nothing: what a
loaded machine must still do is start and finish each job exactly once."""
import calendar
import time

import numpy as np
import onnx
from onnx import TensorProto, helper

from service import ServiceTestCase, main

JOBS = 200


def tiny_model():
    """One 2 x 2 matrix product: the job is nothing but the service's own work."""
    weights = onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], "tiny",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def nanoseconds(timestamp):
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) * 10**9 + int(fraction.ljust(9, "0"))


class LatencyTest(ServiceTestCase):

    def test_an_idle_worker_starts_each_job_at_once(self):
        service = self.own_service()
        path = self.folder() / "tiny.onnx"
        path.write_bytes(tiny_model().SerializeToString())
        model = service.upload("model", path)
        waits, totals = [], []
        for i in range(JOBS):
            # The watch returns when the job is over: the next one finds the worker idle.
            job = service.ok("job", "submit", "--kind", "benchmark", "--model", model, "--latency-runs", "-1", "--label",
                             f"number={i}", "--watch")
            self.assertEqual(job["state"], "SUCCEEDED")
            self.assertEqual(job["attempt"], 1)
            waits.append((nanoseconds(job["start_time"]) - nanoseconds(job["create_time"])) / 1e6)
            totals.append((nanoseconds(job["end_time"]) - nanoseconds(job["create_time"])) / 1e6)
        jobs = service.ok("job", "list", "--limit", "0")["items"]
        self.assertEqual(len(jobs), JOBS)
        self.assertEqual({j["spec"]["labels"]["number"] for j in jobs}, {str(i) for i in range(JOBS)})
        for what, times in (("submission to start", waits), ("submission to end", totals)):
            p50, p95, p99 = np.percentile(times, [50, 95, 99])
            print(f"{what} over {JOBS} jobs, ms: p50 {p50:.2f}  p95 {p95:.2f}  p99 {p99:.2f}  max {max(times):.2f}")
        self.assertGreaterEqual(min(waits), 0, "started before it was submitted")


if __name__ == "__main__":
    main()
