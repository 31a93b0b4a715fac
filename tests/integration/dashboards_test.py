# SPDX-License-Identifier: Apache-2.0
"""A real run of the service in a real Prometheus: every query of every dashboard finds data, every recording rule has
values, every metric is scraped, and the console pages draw it all in a browser."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import numpy as np

from browser import Browser, have_browser
from hf_checkpoints import CASES
from prometheus import Prometheus
from service import EXAMPLE, TOP, Service, ServiceTestCase, main, wait_until

sys.path.insert(0, str(TOP / "deploy/dashboards"))
import generate  # noqa: E402
import spec  # noqa: E402

FAST = ("--latency-runs", "20", "--evaluation-samples", "64")
# Nothing of this happened in the run, and nothing stands for it.
RIGHTLY_EMPTY = set()


def expressions(panel):
    """(what it is called, expression) of each query of a panel, with Grafana's variables filled in."""
    queries = panel.get("queries") or [(expression, title) for title, expression, _ in panel["columns"]]
    for expression, legend in queries:
        for variable in ("$model", "$variant"):
            expression = expression.replace(variable, ".*")
        yield f"{panel['title']}: {legend}", expression.replace(spec.RATE, "60s")


class DashboardsTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        cls.started = time.time()
        limits = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="quant-test."))) / "limits.json"
        limits.write_text('{"default": {"max_queued_jobs": 100, "max_running_jobs": 4}}')
        service = cls.share_service(workers=0, quantd_flags=["--limits", limits, "--a66-metrics"])
        workers = [service.start_worker(flags=["--metrics", "127.0.0.1:0"]) for _ in range(2)]
        addresses = [w.wait_line("quant-worker metrics on ") for w in workers]
        cls.prometheus = cls.enterClassContext(Prometheus({"quantd": [service.metrics_address],
                                                           "quant-worker": addresses}))
        cls.prometheus.scrapes(2)
        cls.run_jobs(service)

    @classmethod
    def run_jobs(cls, service):
        """What the service is for, and what goes wrong: each kind of sample that a panel shows."""
        model = service.upload("model", EXAMPLE / "model.onnx", "--name", "shapes")
        calibration = service.upload("dataset", EXAMPLE / "calibration", "--name", "calibration")
        evaluation = service.upload("dataset", EXAMPLE / "evaluation", "--name", "evaluation")
        static = ("--model", model, "--method", "static", "--calibration", calibration, "--evaluation", evaluation, *FAST)
        first = service.ok("job", "submit", *static)["id"]
        service.wait_job(first, "SUCCEEDED")
        assert service.wait_job(service.submit(*static, cache=True), "SUCCEEDED")["cached_from"] == first
        cls.prometheus.scrapes()
        service.run_job(*static)  # a histogram's series moves only from its second sample on
        service.run_job("--model", model, "--method", "dynamic", "--evaluation", evaluation, *FAST)

        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="quant-test.")))
        case = next(c for c in CASES if c.config["model_type"] == "llama")
        case.make(folder / "tiny-llama")
        rng = np.random.default_rng(5)
        np.save(folder / "tokens.npy", rng.integers(0, 96, [24, 48]).astype(np.int32))
        language = service.upload("model", folder / "tiny-llama")
        tokens = service.upload("dataset", folder / "tokens.npy", "--name", "tokens")
        service.run_job("--model", language, "--method", "rtn", "--group-size", "64", "--format", "onnx", "--evaluation", tokens,
                        "--latency-runs", "4")

        for _ in range(2):  # a job whose data is of another shape fails
            service.run_job("--model", model, "--method", "static", "--calibration", tokens, *FAST, state="FAILED")
        # One whose process crashes is tried again; then it is cancelled while it runs.
        endless = service.submit("--model", model, "--method", "dynamic", "--latency-runs", "1000000", "--priority", "1")
        child = wait_until(lambda: next((c for w in service.workers for c in w.children()), None), "the job's process")
        wait_until(lambda: service.job(endless).get("progress", {}).get("phase") == "benchmark", "the job runs")
        os.kill(child, signal.SIGABRT)  # a sanitizer would catch SIGSEGV
        service.wait_job(endless, ("RETRY_WAIT", "QUEUED", "RUNNING"))
        wait_until(lambda: service.job(endless)["attempt"] == 2, "the second attempt")
        service.ok("job", "cancel", endless)
        service.wait_job(endless, "CANCELLED")
        cls.prometheus.scrapes(3)

    # ---- queries

    def test_every_panel_finds_data(self):
        for board in spec.DASHBOARDS:
            for _, row in board["rows"]:
                for panel in row:
                    for name, expression in expressions(panel):
                        with self.subTest(board=board["name"], panel=name):
                            found = self.prometheus.query_range(expression, self.started)
                            values = sum(len(values) for _, values in found)
                            if name in RIGHTLY_EMPTY:
                                self.assertEqual(values, 0, "no longer empty: say so here")
                            else:
                                self.assertGreater(values, 0, expression)

    def test_the_files_hold_what_spec_py_says(self):
        for path, text in generate.files():
            self.assertEqual(path.read_text(), text, f"{path}: run deploy/dashboards/generate.py")

    def test_every_recording_rule_has_a_value(self):
        rules = [r for g in self.prometheus.api("rules")["groups"] for r in g["rules"]]
        recorded = [r["name"] for r in rules if r["type"] == "recording"]
        self.assertGreaterEqual(len(recorded), 14)
        for name in recorded:
            with self.subTest(rule=name):
                self.assertTrue(self.prometheus.query(name))
        for rule in rules:
            self.assertEqual(rule["health"], "ok", rule.get("lastError"))

    def test_alerts_of_a_sound_service_are_silent(self):
        firing = self.prometheus.query('ALERTS{alertstate="firing"}')
        # The run had a share of failed jobs, and a crash on purpose; they need minutes to fire. A model without scale may
        # truly be slower: that is what the alert is for.
        loud = {labels["alertname"] for labels, _ in firing} - {"QuantLatencyRegression", "QuantAccuracyRegression"}
        self.assertEqual(loud, set())

    def test_every_metric_is_in_the_document(self):
        document = (TOP / "docs/metrics.md").read_text()
        names = self.prometheus.api("label/__name__/values")
        for name in names:
            if not name.startswith(("quant_", "grpc_server_")):
                continue
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            with self.subTest(metric=name):
                self.assertTrue(base in document or name in document)

    def test_labels_are_bounded_and_hold_no_ids(self):
        for job in ("quantd", "quant-worker"):
            for labels, _ in self.prometheus.query(f'{{job="{job}"}}'):
                for label, value in labels.items():
                    self.assertNotRegex(value, r"\b[mdj]-[a-z0-9]{16}\b|[0-9a-f]{64}", f"{labels['__name__']}: {label}")
        # What one scrape of a small service comes to.
        for labels, value in self.prometheus.query('scrape_samples_scraped{job="quantd"}'):
            self.assertLess(value, 6000, labels)

    def test_what_happened_is_what_is_counted(self):
        def value(expression):
            return self.prometheus.query(expression)[0][1]
        self.assertEqual(value('sum(quant_jobs_finished_total{outcome="failed"})'), 2)
        self.assertEqual(value('sum(quant_jobs_finished_total{outcome="cached"})'), 1)
        self.assertEqual(value('sum(quant_jobs_finished_total{outcome="cancelled"})'), 1)
        self.assertEqual(value('sum(quant_job_retries_total{reason="CHILD_CRASHED"})'), 1)
        self.assertEqual(value('sum(quant_worker_children_total{end="signal"})'), 1)
        self.assertEqual(value('sum(quant_worker_children_total{end="oom"})'), 0)
        self.assertEqual(value("sum(quant_workers{state=\"up\"})"), 2)
        size = (EXAMPLE / "model.onnx").stat().st_size
        self.assertEqual(value('quant_model_size_bytes{model="shapes",variant="fp32",dataset="evaluation"}'), size)
        self.assertLess(value('quant_model_size_bytes{model="shapes",variant="int8",method="static"}'), size / 2)
        accuracy = value('quant_model_accuracy{model="shapes",variant="int8",method="static",metric="top1"}')
        self.assertGreater(accuracy, 0.9)
        self.assertLessEqual(accuracy, 1)
        self.assertEqual(len(self.prometheus.query('quant_model_accuracy{variant="w4",method="rtn",metric="perplexity"}')), 1)
        self.assertGreater(value('quant_model_speedup_ratio{model="tiny-llama"}'), 0)
        self.assertGreater(value('quant_cas_capacity_bytes / quant_cas_bytes'), 1)

    def test_a_certificate_tells_its_end(self):
        folder = self.folder()

        def renew(days):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                            str(days), "-subj", "/CN=quantd", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
                           check=True, capture_output=True)

        def left(service):
            end = service.metrics()['quant_tls_certificate_expiry_timestamp_seconds{file="certificate"}']
            return (end - time.time()) / 86400
        renew(3)
        with Service(workers=0, quantd_flags=["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem"]) as service:
            self.assertAlmostEqual(left(service), 3, delta=0.1)
            renew(90)
            self.assertAlmostEqual(left(service), 90, delta=0.1)

    # ---- console pages

    @unittest.skipUnless(have_browser(), "chromium, chromedriver and python3-selenium are not all there")
    def test_console_pages_draw_every_panel(self):
        browser = self.enterContext(Browser())
        for board in spec.DASHBOARDS:
            for width, dark in ((1280, False), (390, False), (1280, True)):
                with self.subTest(page=board["name"], width=width, dark=dark):
                    self.look_at(browser, board, width, dark)

    def open(self, browser, name, width=1280, dark=False):
        browser.open("about:blank")
        browser.open(f"http://{self.prometheus.address}/consoles/{name}.html#5m", width, dark)
        self.wait_drawn(browser)

    def wait_drawn(self, browser):
        wait_until(lambda: browser.run("return document.body && document.body.dataset.drawn"), "the page is drawn")

    def look_at(self, browser, board, width, dark):
        self.open(browser, board["name"], width, dark)
        browser.assert_fits()
        browser.screenshot(f"console-{board['name']}-{width}{'-dark' if dark else ''}")
        drawn = browser.run("""
            return Array.from(document.querySelectorAll("#rows .panel")).map(p => ({
              kind: p.dataset.kind, title: p.dataset.title, state: p.dataset.state, points: +p.dataset.points,
              lines: p.querySelectorAll("polyline, circle").length, cells: p.querySelectorAll("svg rect").length,
              rows: p.querySelectorAll("tr").length, bars: p.querySelectorAll("u").length, text: p.innerText,
              wide: p.scrollWidth - p.clientWidth}))""")
        wanted = [panel for _, row in board["rows"] for panel in row]
        self.assertEqual([p["title"] for p in drawn], [p["title"] for p in wanted])
        for panel in drawn:
            with self.subTest(panel=panel["title"]):
                self.assertEqual(panel["state"], "drawn", panel["text"])
                part = {"graph": "lines", "heat": "cells", "table": "rows", "bars": "bars", "stat": "points"}[panel["kind"]]
                self.assertGreaterEqual(panel[part], 2 if part == "rows" else 1)
                self.assertNotIn("undefined", panel["text"])
                self.assertNotIn("NaN", panel["text"])
                self.assertLessEqual(panel["wide"], 1, "something sticks out of the panel")
        loaded = browser.run("return performance.getEntriesByType('resource').map(r => r.name)")
        self.assertEqual([url for url in loaded if not url.startswith(f"http://{self.prometheus.address}/")], [])
        errors = [e for e in browser.driver.get_log("browser") if e["level"] == "SEVERE" and "favicon" not in e["message"]]
        self.assertEqual(errors, [])

    @unittest.skipUnless(have_browser(), "chromium, chromedriver and python3-selenium are not all there")
    def test_a_variable_narrows_the_models(self):
        browser = self.enterContext(Browser())
        self.open(browser, "models")
        browser.run("""
            const choice = document.querySelector("select[aria-label=Variant]");
            choice.value = "int8"; choice.dispatchEvent(new Event("change"));""")
        self.wait_drawn(browser)
        cells = browser.run(
            "return Array.from(document.querySelectorAll('.table tr td:nth-child(2)')).map(c => c.innerText)")
        self.assertEqual(set(cells), {"int8"})


if __name__ == "__main__":
    main()
