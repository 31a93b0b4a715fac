# SPDX-License-Identifier: Apache-2.0
"""The example model through the whole service: upload, queue, worker, report, download; and what quantctl promises."""
import calendar
import re
import signal
import time

from service import EXAMPLE, Process, ServiceTestCase, gone, main, onnxruntime, program, wait_until

FAST = ("--latency-runs", "20", "--evaluation-samples", "64")
# Never ends by itself: for tests that stop it.
ENDLESS = ("--latency-runs", "1000000")

METRIC_FIELDS = {"name", "original", "quantized", "delta", "low", "high", "samples"}
LATENCY_FIELDS = {"mean_ms", "std_ms", "p50_ms", "p95_ms", "p99_ms"}
LAYER_FIELDS = {"name", "op", "method", "bits", "group_size", "mse", "mae", "relative_error", "sqnr_db", "fallback"}
PROVENANCE_FIELDS = {"model_digest", "data_digests", "recipe", "build", "isa", "seed"}
PHASES = ["fetch", "load", "calibrate", "quantize", "export", "verify", "evaluate", "benchmark", "upload"]


class EndToEndTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        service = cls.share_service()
        cls.model = service.ok("model", "upload", EXAMPLE / "model.onnx", "--name", "shapes")
        cls.calibration = service.ok("dataset", "upload", EXAMPLE / "calibration")
        cls.evaluation = service.ok("dataset", "upload", EXAMPLE / "evaluation")
        cls.static = ("--kind", "quantize", "--model", cls.model["id"], "--method", "static",
                      "--calibration", cls.calibration["id"], "--evaluation", cls.evaluation["id"])
        cls.watched = service.quantctl("job", "submit", *cls.static, "--watch", "--output", "json")
        assert cls.watched.code == 0, cls.watched
        cls.job = cls.watched.json
        cls.report = service.report(cls.job["id"])

    def quick(self, *flags):
        """Flags of a job that ends within a second or two."""
        return ("--model", self.model["id"], "--method", "dynamic", *FAST, *flags)

    # ---- upload

    def test_a_second_upload_of_the_same_sends_no_bytes(self):
        before = self.service.metrics()["quant_upload_bytes_total"]
        again = self.service.ok("model", "upload", EXAMPLE / "model.onnx", "--name", "shapes")
        self.assertEqual(again["id"], self.model["id"])
        other = self.service.ok("model", "upload", EXAMPLE / "model.onnx", "--name", "another name")
        self.assertEqual(other["digest"], self.model["digest"])
        self.assertEqual(self.service.metrics()["quant_upload_bytes_total"], before)
        shown = self.service.ok("model", "show", self.model["id"])
        self.assertEqual(shown["format"], "ONNX")
        self.assertEqual([f["path"] for f in shown["files"]], ["model.onnx"])
        self.assertEqual(shown["size_bytes"], (EXAMPLE / "model.onnx").stat().st_size)
        listed = [m["id"] for m in self.service.ok("model", "list")["items"]]
        self.assertIn(self.model["id"], listed)
        self.service.ok("model", "delete", other["id"])
        self.assert_refused(self.service.quantctl("model", "show", other["id"]), other["id"], codes=(1,))

    # ---- the job

    def test_a_watched_job_prints_one_document_and_its_phases(self):
        self.assertEqual(self.job["state"], "SUCCEEDED")
        self.assertEqual(self.job["attempt"], 1)
        self.assertNotIn("error", self.job)
        self.assertTrue(self.job["worker_id"])
        self.assertTrue(self.job["result_model_id"].startswith("m-"))
        self.assertLessEqual(self.job["create_time"], self.job["start_time"])
        self.assertLessEqual(self.job["start_time"], self.job["end_time"])
        text = self.service.quantctl("job", "watch", self.job["id"])
        self.assertEqual(text.code, 0, str(text))
        self.assertIn("SUCCEEDED", text.out)

    def test_the_report_has_every_name_of_the_interface(self):
        report = self.report
        self.assertLessEqual({"original_bytes", "quantized_bytes", "bits_per_weight"}, report["size"].keys())
        self.assertTrue(report["metrics"])
        for metric in report["metrics"]:
            self.assertLessEqual(METRIC_FIELDS, metric.keys())
        for side in ("original", "quantized"):
            self.assertLessEqual(LATENCY_FIELDS, report["latency"][side].keys())
            self.assertGreater(report["throughput"][side], 0)
        self.assertGreater(report["peak_memory_bytes"], 1 << 20)
        self.assertTrue(all({"name", "seconds"} <= phase.keys() for phase in report["phases"]))
        for layer in report["layers"]:
            self.assertLessEqual(LAYER_FIELDS, layer.keys())
        self.assertLessEqual(PROVENANCE_FIELDS, report["provenance"].keys())

    def test_the_report_tells_the_truth_about_size_accuracy_and_time(self):
        report = self.report
        size = report["size"]
        self.assertEqual(size["original_bytes"], (EXAMPLE / "model.onnx").stat().st_size)
        self.assertLess(size["quantized_bytes"], 0.42 * size["original_bytes"])
        self.assertGreater(size["bits_per_weight"], 7.9)
        self.assertLess(size["bits_per_weight"], 9.5)
        metrics = {m["name"]: m for m in report["metrics"]}
        top1 = metrics["top1"]
        self.assertAlmostEqual(top1["original"], 89.84, delta=0.2)  # examples/README.md
        self.assertLess(abs(top1["delta"]), 1.5)
        self.assertAlmostEqual(top1["delta"], top1["quantized"] - top1["original"], places=4)
        self.assertLessEqual(top1["low"], top1["delta"])
        self.assertGreaterEqual(top1["high"], top1["delta"])
        self.assertEqual(top1["samples"], 640)
        self.assertGreater(metrics["sqnr_db"]["quantized"], 15)
        self.assertGreater(metrics["cosine"]["quantized"], 0.98)
        for side in ("original", "quantized"):
            latency = report["latency"][side]
            self.assertGreater(latency["p50_ms"], 0)
            self.assertLessEqual(latency["p50_ms"], latency["p95_ms"])
            self.assertLessEqual(latency["p95_ms"], latency["p99_ms"])
        self.assertEqual(report["latency"]["runs"], 200)

    def test_the_report_lists_each_layer_with_its_error(self):
        layers = self.report["layers"]
        self.assertEqual(sum(1 for layer in layers if layer["op"] == "Conv"), 17)  # examples/README.md
        self.assertEqual(sum(1 for layer in layers if layer["op"] == "Gemm"), 1)
        self.assertEqual(len({layer["name"] for layer in layers}), len(layers))
        for layer in layers:
            self.assertEqual(layer["method"], "static", layer)
            self.assertIn(layer["bits"], (7, 8), layer)
            self.assertGreater(layer["sqnr_db"], 5, layer)
            self.assertGreater(layer["mse"], 0, layer)

    def test_the_phases_are_in_order_and_add_up_to_the_run(self):
        names = [phase["name"] for phase in self.report["phases"]]
        self.assertEqual(names, [p for p in PHASES if p in names], "unknown names or wrong order")
        for needed in ("load", "calibrate", "quantize", "export", "verify", "evaluate", "benchmark"):
            self.assertIn(needed, names)
        ran = _seconds(self.job["end_time"]) - _seconds(self.job["start_time"])
        self.assertLessEqual(sum(phase["seconds"] for phase in self.report["phases"]), ran + 0.5)

    def test_the_report_says_where_its_numbers_come_from(self):
        provenance = self.report["provenance"]
        self.assertEqual(provenance["model_digest"], self.model["digest"])
        self.assertEqual(provenance["data_digests"], [self.calibration["digest"], self.evaluation["digest"]])
        self.assertEqual(provenance["recipe"]["static_int8"]["weight_granularity"], "PER_CHANNEL")
        self.assertEqual(provenance["recipe"]["calibration"]["observer"], "HISTOGRAM_MSE")
        self.assertEqual(provenance["recipe"]["evaluation"]["latency_runs"], 200)
        self.assertRegex(provenance["build"], r"^\d+\.\d+\.\d+")
        self.assertTrue(provenance["isa"])
        self.assertEqual(provenance["seed"], 0)
        result = self.service.ok("model", "show", self.job["result_model_id"])
        self.assertEqual(provenance["result_digest"], result["digest"])
        self.assertEqual(result["source_job_id"], self.job["id"])
        self.assertEqual(result["size_bytes"], self.report["size"]["quantized_bytes"])

    def test_the_text_report_fits_a_terminal(self):
        result = self.service.quantctl("job", "report", self.job["id"])
        self.assertEqual(result.code, 0, str(result))
        for line in result.out.splitlines():
            self.assertLessEqual(len(line), 100, line)
            self.assertEqual(line, line.rstrip())
        for word in ("size on disk", "top-1", "latency p50", "throughput", self.job["id"]):
            self.assertIn(word, result.out)

    def test_the_html_report_loads_nothing(self):
        result = self.service.quantctl("job", "report", self.job["id"], "--format", "html")
        self.assertEqual(result.code, 0, str(result))
        page = result.out
        self.assertTrue(page.lstrip().lower().startswith("<!doctype html"))
        links = [u for u in re.findall(r"https?://[^\s\"'<>)]*", page) if not u.startswith("http://www.w3.org/")]
        self.assertEqual(links, [])
        for tag in ("<script", "<link", "<iframe", "<img", "@import", "url("):
            self.assertNotIn(tag, page.lower())
        self.assertIn("<svg", page)
        self.assertTrue("89.8" in page, "the accuracy is not on the page")

    def test_the_result_runs_in_onnxruntime_as_the_report_says(self):
        folder = self.folder()
        downloaded = self.service.ok("model", "download", self.job["result_model_id"], folder)
        digests = {f["path"]: f["digest"]["sha256"] for f in downloaded["files"]}
        self.assertEqual(list(digests), ["model.onnx"])
        again = self.service.quantctl("model", "download", self.job["result_model_id"], folder)
        self.assertEqual(again.code, 0, str(again))
        self.assertIn("1 there already", again.out)
        (folder / "model.onnx").write_bytes(b"something else")
        self.assert_refused(self.service.quantctl("model", "download", self.job["result_model_id"], folder), "--force",
                            codes=(1,))
        self.service.ok("model", "download", self.job["result_model_id"], folder, "--force")
        theirs = onnxruntime("accuracy", folder / "model.onnx", EXAMPLE / "evaluation")
        ours = next(m for m in self.report["metrics"] if m["name"] == "top1")
        # Two pictures of 640 may fall the other way by rounding in another order.
        self.assertAlmostEqual(theirs["top1"], ours["quantized"], delta=0.4)
        self.assertEqual(theirs["samples"], ours["samples"])

    def test_the_dynamic_method_needs_no_calibration(self):
        job = self.service.run_job("--model", self.model["id"], "--method", "dynamic", "--evaluation",
                                   self.evaluation["id"], "--latency-runs", "20", "--name", "shapes-dyn")
        report = self.service.report(job["id"])
        top1 = next(m for m in report["metrics"] if m["name"] == "top1")
        self.assertLess(abs(top1["delta"]), 1.5)
        self.assertEqual(self.service.ok("model", "show", job["result_model_id"])["name"], "shapes-dyn")
        self.service.download(job["result_model_id"], "dynamic")
        theirs = onnxruntime("accuracy", self.service.folder / "dynamic" / "model.onnx", EXAMPLE / "evaluation")
        self.assertAlmostEqual(theirs["top1"], top1["quantized"], delta=0.4)

    def test_the_same_submission_gives_the_same_bytes(self):
        first = self.service.download(self.job["result_model_id"], "first")
        job = self.service.run_job(*self.static, "--latency-runs", "20")
        self.assertNotEqual(job["id"], self.job["id"])
        self.assertEqual(self.service.download(job["result_model_id"], "second"), first)
        threads = self.service.run_job(*self.static, "--latency-runs", "20", "--calibration-batch", "7", "--threads", "1")
        self.assertEqual(self.service.download(threads["result_model_id"], "third"), first,
                         "batch size or threads changed the result")

    def test_without_evaluation_data_outputs_are_compared(self):
        job = self.service.run_job(*self.quick())
        metrics = {m["name"] for m in self.service.report(job["id"])["metrics"]}
        self.assertIn("sqnr_db", metrics)
        self.assertIn("cosine", metrics)
        self.assertNotIn("top1", metrics)

    def test_a_layer_can_be_left_out_by_name(self):
        names = [layer["name"] for layer in self.report["layers"]]
        job = self.service.run_job(*self.static, *FAST, "--skip", names[0], "--skip-last")
        methods = {layer["name"]: layer["method"] for layer in self.service.report(job["id"])["layers"]}
        self.assertEqual(methods[names[0]], "fp32")
        self.assertEqual(methods[names[-1]], "fp32")
        self.assertEqual(set(methods[n] for n in names[1:-1]), {"static"})

    def test_a_recipe_file_is_json_or_text_and_flags_override_it(self):
        folder = self.folder()
        recipe_json, recipe_text = folder / "recipe.json", folder / "recipe.txtpb"
        recipe_json.write_text('{"static_int8": {"skip_first": true, "activation_type": "INT8"},'
                               ' "calibration": {"observer": "MIN_MAX"}, "seed": 5, "evaluation": {"latency_runs": 20}}')
        recipe_text.write_text("static_int8 { skip_first: true activation_type: ACTIVATION_TYPE_INT8 }\n"
                               "calibration { observer: OBSERVER_MIN_MAX }\nseed: 5\nevaluation { latency_runs: 20 }\n")
        data = ("--model", self.model["id"], "--calibration", self.calibration["id"])
        recipes, results = [], []
        for recipe in (recipe_json, recipe_text):
            job = self.service.run_job(*data, "--recipe", recipe, "--seed", "6")
            report = self.service.report(job["id"])
            recipes.append(report["provenance"]["recipe"])
            results.append(report["provenance"]["result_digest"])
            self.assertEqual(report["layers"][0]["method"], "fp32")
        self.assertEqual(recipes[0], recipes[1])
        self.assertEqual(results[0], results[1])
        self.assertEqual(recipes[0]["seed"], 6)
        self.assertEqual(recipes[0]["calibration"]["observer"], "MIN_MAX")
        self.assertEqual(recipes[0]["static_int8"]["activation_type"], "INT8")
        recipe_json.write_text('{"static_int8": {"skip_frist": true}}')
        self.assert_refused(self.service.quantctl("job", "submit", *data, "--recipe", recipe_json), "skip_frist",
                            codes=(2,))

    def test_a_benchmark_job_compares_two_models(self):
        job = self.service.run_job("--kind", "benchmark", "--model", self.job["result_model_id"], "--baseline",
                                   self.model["id"], "--evaluation", self.evaluation["id"], "--latency-runs", "20")
        self.assertEqual(job.get("result_model_id", ""), "")
        report = self.service.report(job["id"])
        top1 = next(m for m in report["metrics"] if m["name"] == "top1")
        measured = next(m for m in self.report["metrics"] if m["name"] == "top1")
        self.assertAlmostEqual(top1["quantized"], measured["quantized"], places=3)
        self.assertAlmostEqual(top1["original"], measured["original"], places=3)
        self.assertEqual(report["size"], {**report["size"], "original_bytes": self.report["size"]["original_bytes"],
                                          "quantized_bytes": self.report["size"]["quantized_bytes"]})
        self.assertEqual(report["latency"]["runs"], 20)

    # ---- the queue

    def test_jobs_are_listed_newest_first_and_filtered(self):
        run = f"run-{time.monotonic_ns()}"
        ids = [self.service.submit(*self.quick("--label", f"run={run}", "--label", f"number={i}")) for i in range(3)]
        other = self.service.submit("--kind", "benchmark", "--model", self.model["id"], "--latency-runs", "-1", "--label",
                                    f"run={run}")
        for job_id in [*ids, other]:
            self.service.wait_job(job_id, "SUCCEEDED")

        def listed(*flags):
            return [j["id"] for j in self.service.ok("job", "list", *flags)["items"]]
        mine = ("--label", f"run={run}")
        self.assertEqual(listed(*mine), [other, *reversed(ids)])
        self.assertEqual(listed(*mine, "--label", "number=1"), [ids[1]])
        self.assertEqual(listed(*mine, "--kind", "quantize"), list(reversed(ids)))
        self.assertEqual(listed(*mine, "--state", "succeeded", "--limit", "2"), [other, ids[2]])
        self.assertEqual(listed(*mine, "--state", "failed", "--state", "queued"), [])
        self.assertEqual(listed("--label", "run=nobody"), [])
        everything = listed("--limit", "0")
        self.assertEqual(len(everything), len(set(everything)))
        self.assertGreaterEqual(len(everything), 5)
        table = self.service.quantctl("job", "list", *mine)
        self.assertEqual(len(table.out.splitlines()), 5, str(table))

    def test_paging_shows_each_job_once(self):
        self.service.quantctl("job", "list", "--limit", "1")
        count = len(self.service.ok("job", "list", "--limit", "0")["items"])
        self.assertEqual(len(self.service.ok("job", "list", "--limit", str(count))["items"]), count)
        one = self.service.quantctl("job", "list", "--limit", "1")
        self.assertEqual("more than 1" in one.err, count > 1, str(one))

    def test_cancel_retry_and_delete(self):
        running = self.service.submit(*self.quick(*ENDLESS))
        queued = self.service.submit(*self.quick("--label", "purpose=cancel"))
        self.service.wait_job(running, "RUNNING")
        child = self.service.child()
        # A queued job ends at once.
        self.assertEqual(self.service.ok("job", "cancel", queued)["state"], "CANCELLED")
        self.assertEqual(self.service.ok("job", "cancel", queued)["state"], "CANCELLED", "not idempotent")
        self.assert_refused(self.service.quantctl("job", "report", queued), "CANCELLED", codes=(1,))
        # A running one cannot be deleted or retried; it ends by its worker's word, and its process is gone.
        self.assert_refused(self.service.quantctl("job", "delete", running), "RUNNING", codes=(1,))
        self.assert_refused(self.service.quantctl("job", "retry", running), "RUNNING", codes=(1,))
        self.assert_refused(self.service.quantctl("model", "delete", self.model["id"]), running, codes=(1,))
        self.assertIn(self.service.ok("job", "cancel", running)["state"], ("CANCELLING", "CANCELLED"))
        job = self.service.wait_job(running, "CANCELLED")
        self.assertNotIn("result_model_id", {k for k, v in job.items() if v})
        wait_until(lambda: gone(child), f"child {child} of the cancelled job to end")
        watch = self.service.quantctl("job", "watch", running)
        self.assertEqual(watch.code, 1, str(watch))
        # Retry: attempts begin anew, and it may succeed.
        retried = self.service.ok("job", "retry", queued)
        self.assertIn(retried["state"], ("QUEUED", "RUNNING"))
        self.assertEqual(self.service.wait_job(queued, "SUCCEEDED")["attempt"], 1)
        self.assert_refused(self.service.quantctl("job", "retry", queued), "SUCCEEDED", codes=(1,))
        self.assert_refused(self.service.quantctl("job", "cancel", queued), "SUCCEEDED", codes=(1,))
        result = self.service.job(queued)["result_model_id"]
        self.service.ok("job", "delete", queued)
        self.assert_refused(self.service.quantctl("job", "show", queued), queued, codes=(1,))
        self.service.ok("model", "show", result)

    def test_a_repeated_request_id_is_one_job(self):
        flags = self.quick("--request-id", f"test-{time.monotonic_ns()}")
        first = self.service.submit(*flags)
        self.assertEqual(self.service.submit(*flags), first)
        self.assert_refused(self.service.quantctl("job", "submit", *flags, "--seed", "1"), "request", codes=(1,))
        self.service.wait_job(first, "SUCCEEDED")

    def test_the_same_work_is_done_once(self):
        again = self.service.ok("job", "submit", *self.static, "--name", "again")
        self.assertEqual((again["state"], again["attempt"]), ("SUCCEEDED", 0))
        answered = self.service.job(again["cached_from"])
        self.assertEqual(answered["state"], "SUCCEEDED")
        self.assertEqual(self.service.report(again["id"]), self.service.report(again["cached_from"]))
        self.assertNotEqual(again["result_model_id"], answered["result_model_id"])
        self.assertEqual(self.service.download(again["result_model_id"], "again"),
                         self.service.download(answered["result_model_id"], "answered"))
        self.assertIn(again["cached_from"], self.service.quantctl("job", "show", again["id"]).out)
        # Two at once: the second waits for the first.
        flags = self.quick("--seed", "77")
        first, second = (self.service.submit(*flags, cache=True) for _ in range(2))
        self.assertEqual(self.service.wait_job(second, "SUCCEEDED")["cached_from"], first)
        self.assertEqual(self.service.run_job(*flags)["attempt"], 1, "--no-cache runs")

    def test_workers_are_listed(self):
        items = self.service.ok("worker", "list")["items"]
        worker = next(w for w in items if w["id"] == self.service.workers[0].id)
        self.assertEqual(worker["info"]["slots"], 1)
        self.assertFalse(worker["lost"])
        self.assertFalse(worker["draining"])
        self.assertEqual(self.job["worker_id"], worker["id"])
        self.assertEqual(self.service.quantctl("worker", "list").code, 0)

    # ---- what Prometheus sees

    def test_finished_jobs_are_counted(self):
        def finished(**wanted):
            return sum(value for name, value in self.service.metrics().items()
                       if name.startswith("quant_jobs_finished_total{")
                       and all(f'{k}="{v}"' in name for k, v in wanted.items()))
        static = finished(kind="quantize", method="static", outcome="succeeded")
        self.assertGreaterEqual(static, 1)
        dynamic = finished(kind="quantize", method="dynamic", outcome="succeeded")
        self.service.run_job(*self.quick())
        self.assertEqual(finished(kind="quantize", method="dynamic", outcome="succeeded"), dynamic + 1)
        samples = self.service.metrics()
        for name in ("quant_queue_depth", "quant_jobs", "quant_job_run_seconds_count", "quant_job_queue_wait_seconds_count",
                     "grpc_server_handled_total", "quant_build_info", "quant_cas_bytes", "process_resident_memory_bytes"):
            self.assertTrue(any(s.split("{")[0] == name for s in samples), f"no {name}")
        for sample in samples:
            self.assertNotRegex(sample, r"[jmd]-[a-z0-9]{16}", "an id as a label")
        self.assertEqual(self.service.http("/healthz")[0], 200)
        self.assertEqual(self.service.http("/readyz")[0], 200)

    # ---- tune

    def test_a_tune_job_makes_the_candidate_it_reports(self):
        data = ("--model", self.model["id"], "--calibration", self.calibration["id"], "--evaluation", self.evaluation["id"])
        flags = ("--kind", "tune", *data, "--candidates", "dynamic,static", "--max-drop", "2", "--evaluation-samples", "128",
                 "--latency-runs", "5", "--skip-error-profile")
        job = self.service.run_job(*flags)
        report = self.service.report(job["id"])
        trials = report["tuning"]["trials"]
        self.assertEqual([t["name"] for t in trials], ["dynamic", "static"])
        self.assertEqual(sum(t["chosen"] for t in trials), 1)
        chosen = next(t for t in trials if t["chosen"])
        self.assertTrue(report["tuning"]["met"])
        self.assertEqual(report["size"]["quantized_bytes"], chosen["size"]["quantized_bytes"])
        names = [phase["name"] for phase in report["phases"]]
        self.assertEqual(names, [p for p in PHASES if p in names], "unknown names or wrong order")
        result = self.service.ok("model", "show", job["result_model_id"])
        self.assertEqual(result["name"], "shapes-tuned")
        self.assertEqual(sum(f["digest"]["size_bytes"] for f in result["files"]), chosen["size"]["quantized_bytes"])
        # Again: answered from the result that is there.
        again = self.service.ok("job", "submit", *flags, "--name", "again")
        self.assertEqual((again["state"], again["cached_from"]), ("SUCCEEDED", job["id"]))
        # A candidate for another kind of model is refused before any work.
        self.assert_refused(self.service.quantctl("job", "submit", "--kind", "tune", *data, "--candidates", "static,gptq:4"),
                            "gptq", "static or dynamic", codes=(1,))
        self.assert_refused(self.service.quantctl("job", "submit", "--kind", "tune", *data, "--max-drop", "200"),
                            "max_drop is 200", codes=(1,))

    # ---- what is not there, and wrong usage

    def test_what_is_not_built_is_named(self):
        data = ("--model", self.model["id"], "--calibration", self.calibration["id"])
        for method in ("smoothquant", "rtn", "gptq", "awq", "nf4", "llm_int8", "fp16", "bf16", "hqq"):
            with self.subTest(method=method):
                self.assert_refused(self.service.quantctl("job", "submit", *data, "--method", method), method, "static",
                                    codes=(1,))
        for kind in (("calibrate",), ("analyze", "--method", "static")):
            with self.subTest(kind=kind[0]):
                self.assert_refused(self.service.quantctl("job", "submit", "--kind", *kind, *data), kind[0], codes=(1,))
        self.assert_refused(self.service.quantctl("job", "submit", *data, "--method", "static", "--format", "gguf"), "gguf",
                            codes=(1,))

    def test_wrong_usage_is_exit_status_2(self):
        for args in ([], ["job"], ["job", "sumbit"], ["job", "submit"], ["job", "submit", "--model", "m-x"],
                     ["job", "submit", "--model", "m-x", "--method", "magic"], ["job", "list", "--state", "happy"],
                     ["job", "submit", "--model", "m-x", "--method", "static", "--bits", "4"],
                     ["job", "submit", "--modle", "m-x"], ["job", "show"], ["job", "show", "a", "b"],
                     ["job", "list", "--limit", "many"], ["--output", "xml", "job", "list"]):
            with self.subTest(args=args):
                result = self.service.quantctl(*args)
                self.assertEqual(result.code, 2, str(result))
                self.assertEqual(result.out, "")
                self.assertTrue(result.err.strip())

    def test_refusals_of_the_server_are_exit_status_1(self):
        missing = "m-0000000000000000"
        self.assert_refused(self.service.quantctl("model", "show", missing), missing, codes=(1,))
        self.assert_refused(self.service.quantctl("job", "show", "j-0000000000000000"), "j-0000000000000000", codes=(1,))
        self.assert_refused(self.service.quantctl("job", "submit", "--model", missing, "--method", "dynamic"), missing,
                            codes=(1,))
        self.assert_refused(self.service.quantctl("job", "submit", "--model", self.model["id"], "--method", "static"),
                            "calibration", codes=(1, 2))
        self.assert_refused(self.service.quantctl("job", "submit", *self.quick("--latency-runs", "-7")), "latency",
                            codes=(1, 2))

    def test_help_completion_and_version(self):
        for args in (["--help"], ["job", "--help"], ["job", "submit", "--help"], ["--version"], ["completion"]):
            result = self.service.quantctl(*args)
            self.assertEqual(result.code, 0, str(result))
            self.assertTrue(result.out.strip())
            self.assertEqual(result.err, "")
        self.assertIn("quantctl", self.service.quantctl("--help").out)
        # Every flag of the design's command line is there.
        text = self.service.quantctl("job", "submit", "--help").out
        for flag in ("--kind", "--model", "--method", "--bits", "--group-size", "--recipe", "--calibration",
                     "--evaluation", "--format", "--watch"):
            self.assertIn(flag, text)


class StopTest(ServiceTestCase):

    def test_sigterm_stops_both_and_nobody_is_exit_status_3(self):
        service = self.own_service()
        self.assertEqual(service.ok("job", "list")["items"], [])
        worker = service.workers[0]
        worker.send(signal.SIGTERM)
        self.assertEqual(worker.wait(), 0)
        service.quantd.send(signal.SIGTERM)
        self.assertEqual(service.quantd.wait(), 0)
        result = service.quantctl("job", "list")
        self.assertEqual(result.code, 3, str(result))
        self.assertIn(service.server, result.err)

    def test_open_watches_do_not_keep_quantd_from_stopping(self):
        service = self.own_service(workers=0)
        model = service.upload("model", EXAMPLE / "model.onnx")
        job = service.submit("--model", model, "--method", "dynamic")
        watch = Process([program("quantctl"), "--server", service.server, "job", "watch", job],
                        service.folder / "watch.log")
        self.addCleanup(watch.kill)
        wait_until(lambda: "queued" in watch.log.read_text(), "the watch to show the job")
        service.quantd.send(signal.SIGTERM)
        self.assertEqual(service.quantd.wait(timeout=30), 0)


def _seconds(timestamp):
    """Seconds of an RFC 3339 time in UTC, with up to nine digits of fraction."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


if __name__ == "__main__":
    main()
