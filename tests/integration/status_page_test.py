# SPDX-License-Identifier: Apache-2.0
"""quantd's status pages in headless Chromium: a real job from running to its report, hostile names, tokens, widths."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

from browser import HOSTILE, Browser, have_browser
from service import EXAMPLE, ServiceTestCase, main, program, wait_until

FAST = ("--latency-runs", "20", "--evaluation-samples", "64")
# Never ends by itself: for tests that stop it.
ENDLESS = ("--latency-runs", "1000000")
WIDTHS = (390, 1280)


class PageTestCase(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    @classmethod
    def upload_examples(cls):
        service = cls.service
        cls.model = service.ok("model", "upload", EXAMPLE / "model.onnx", "--name", "shapes")["id"]
        cls.calibration = service.upload("dataset", EXAMPLE / "calibration")
        cls.evaluation = service.upload("dataset", EXAMPLE / "evaluation")

    def url(self, path=""):
        return f"http://{self.service.metrics_address}{path}"

    def look(self, path, name, dark=False):
        """Opens a page at each width, checks what holds of all of them, and takes its picture."""
        for width in WIDTHS:
            self.browser.requests()
            self.browser.open(self.url(path), width, dark)
            asked = self.browser.requests()
            self.assertTrue(all(url.startswith((self.url("/"), "data:")) for url in asked), asked)
            self.assertEqual(self.browser.console(), [])
            self.browser.assert_fits()
            self.assertGreater(len(self.browser.screenshot(f"{name}-{width}{'-dark' if dark else ''}")), 5000)
            self.browser.assert_inert()


class StatusPageTest(PageTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        service = cls.share_service()
        cls.upload_examples()
        cls.hostile = service.ok("model", "upload", EXAMPLE / "model.onnx", "--name", HOSTILE)["id"]
        cls.job = service.run_job("--model", cls.model, "--method", "static", "--calibration", cls.calibration,
                                  "--evaluation", cls.evaluation, "--label", "team=vision", "--label", "ticket=Q-17")
        cls.cursed = service.run_job("--model", cls.hostile, "--method", "dynamic", "--label", f"k={HOSTILE[:60]}",
                                     *FAST)
        # Fails: calibration data of another model.
        wrong = service.folder / "wrong.npy"
        subprocess.run([sys.executable, "-c", "import numpy, sys; numpy.save(sys.argv[1], numpy.zeros((4, 3), 'f4'))",
                        str(wrong)], check=True)
        cls.failed = service.run_job("--model", cls.model, "--method", "static", "--calibration",
                                     service.upload("dataset", wrong), state="FAILED")

    def test_the_first_page_shows_jobs_workers_and_models(self):
        self.look("/", "status")
        text = self.browser.text()
        for wanted in (self.job["id"], "quantize static", "SUCCEEDED", "FAILED", self.failed["error"]["reason"], "shapes",
                       "IDLE", self.service.workers[0].id):
            self.assertIn(wanted, text)
        self.look("/", "status", dark=True)
        self.assertNotEqual(self.browser.run("return getComputedStyle(document.body).backgroundColor"),
                            "rgb(255, 255, 255)")

    def test_a_jobs_page_shows_its_report_facts_and_labels(self):
        self.look(f"/jobs/{self.job['id']}", "job")
        text = self.browser.text()
        for wanted in ("team=vision", "ticket=Q-17", "Before and after", "top-1 accuracy", "Latency", "Provenance",
                       self.job["worker_id"], "shapes-static"):
            self.assertIn(wanted, text)
        report = self.service.report(self.job["id"])
        self.assertIn(report["provenance"]["model_digest"], text)
        self.browser.one("details summary").click()
        self.assertIn("static_int8", self.browser.text())
        # From here to the result and back.
        self.browser.one(f"a[href='/models/{self.job['result_model_id']}']").click()
        self.browser.wait_text("model.onnx")
        self.browser.one(f"a[href='/jobs/{self.job['id']}']").click()
        self.browser.wait_text("Before and after")

    def test_the_report_alone_is_what_quantctl_writes(self):
        self.look(f"/jobs/{self.job['id']}/report", "report-page")
        with urllib.request.urlopen(self.url(f"/jobs/{self.job['id']}/report"), timeout=30) as answer:
            served = answer.read().decode()
        self.assertEqual(served.strip(),
                         self.service.quantctl("job", "report", self.job["id"], "--format", "html").out.strip())

    def test_a_failed_job_says_why(self):
        self.look(f"/jobs/{self.failed['id']}", "failed")
        self.assertIn(self.failed["error"]["message"][:60], self.browser.text())
        self.assertIn(self.failed["error"]["reason"], self.browser.text())

    def test_hostile_names_are_text(self):
        for path, name in (("/models", "models"), (f"/models/{self.hostile}", "hostile-model"),
                           (f"/jobs/{self.cursed['id']}", "hostile-job"), (f"/jobs/{self.cursed['id']}/report", "hostile-report")):
            self.look(path, name)
        self.browser.open(self.url("/models"))
        self.assertIn(HOSTILE, self.browser.text())
        self.browser.open(self.url(f"/jobs/{self.cursed['id']}"))
        self.assertIn(HOSTILE[:60], self.browser.text())
        for path in (f"/{HOSTILE}", f"/jobs?state={HOSTILE}"):
            self.browser.open(self.url(path))
            self.browser.assert_inert()

    def test_lists_of_each_kind(self):
        for path in ("/jobs", "/datasets", "/workers", "/jobs?state=failed"):
            self.look(path, path.strip("/").replace("?state=", "-"))
        text = self.browser.text()
        self.assertIn(self.failed["id"], text)
        self.assertNotIn(self.job["id"], text)

    def test_pages_print(self):
        self.browser.open(self.url(f"/jobs/{self.job['id']}"))
        self.assertTrue(self.browser.pdf("job").startswith(b"%PDF"))

    def test_a_running_job_moves_by_itself(self):
        job_id = self.service.submit("--model", self.model, "--method", "dynamic", *ENDLESS)
        self.addCleanup(self.service.wait_job, job_id, "CANCELLED")
        self.addCleanup(self.service.quantctl, "job", "cancel", job_id)

        def told():
            progress = self.service.job(job_id).get("progress", {})
            return progress if progress.get("phase") == "benchmark" and progress.get("remaining") else None
        progress = wait_until(told, "a remaining time")
        self.assertEqual(progress["unit"], "runs")
        self.assertGreater(progress["rate"], 0)
        self.assertEqual(progress["total"], 1000000)
        self.look(f"/jobs/{job_id}", "running")
        self.look("/", "status-running")
        self.browser.open(self.url(f"/jobs/{job_id}"))
        now = self.browser.one(".now").text
        self.assertRegex(now, r"benchmark \d+ %, \d+ of 1000000 runs, [\d.]+ runs/s, .* left")
        self.assertEqual(len(self.browser.all(".now progress")), 1)
        self.browser.run("window.before = 1")
        wait_until(lambda: self.browser.run("return window.before === undefined"), "the page to load itself again")
        later = self.browser.one(".now").text
        self.assertNotEqual(re.search(r"(\d+) of", later)[1], re.search(r"(\d+) of", now)[1])
        shown = self.service.quantctl("job", "show", job_id)
        self.assertRegex(shown.out, r"progress +benchmark \d+%  \d+ of 1000000 runs, [\d.]+ runs/s, .* left")


class TokenPageTest(PageTestCase):
    """With --tokens, where each sees its own."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = pathlib.Path(tempfile.mkdtemp(prefix="quant-tokens."))
        cls.addClassCleanup(shutil.rmtree, folder, True)
        cls.tokens = folder / "tokens"
        cls.token = {name: cls.add(name, *flags) for name, flags in {
            "ann": ("--tenant", "acme"), "eve": ("--tenant", "other"), "ops": ("--role", "operator"),
            "w1": ("--role", "worker")}.items()}
        # Service's quantctl is ann's.
        os.environ["QUANT_TOKEN"] = cls.token["ann"]
        cls.addClassCleanup(os.environ.pop, "QUANT_TOKEN")
        token_file = folder / "worker-token"
        token_file.write_text(cls.token["w1"])
        token_file.chmod(0o600)
        service = cls.share_service(quantd_flags=["--tokens", cls.tokens, "--audit-log", folder / "audit"],
                                    worker_flags=["--token-file", token_file])
        cls.audit = folder / "audit"
        cls.upload_examples()
        cls.job = service.run_job("--model", cls.model, "--method", "dynamic", *FAST)

    @classmethod
    def add(cls, name, *flags):
        made = subprocess.run([program("quantd"), "token", "add", "--tokens", str(cls.tokens), "--name", name, *flags],
                              capture_output=True, text=True, check=True)
        return next(word for word in made.stdout.split() if word.startswith("t-"))

    def log_in(self, name, path="/"):
        self.browser.open(self.url(path))
        if self.browser.all(".who button"):
            self.browser.one(".who button").click()
            self.browser.wait_text("Log in")
            self.browser.open(self.url(path))
        self.browser.one("#token").send_keys(self.token[name])
        self.browser.one("form.login button").click()
        self.browser.wait_text("log out")

    def test_a_login_opens_the_pages_and_a_logout_closes_them(self):
        self.browser.driver.delete_all_cookies()
        self.browser.open(self.url("/jobs"), 390)
        self.browser.assert_fits()
        self.browser.screenshot("login-390")
        self.browser.open(self.url("/jobs"), 1280)
        self.browser.screenshot("login-1280")
        self.browser.assert_inert()
        self.assertNotIn(self.job["id"], self.browser.text())
        self.browser.one("#token").send_keys("t-0000000000000000." + "0" * 64)
        self.browser.one("form.login button").click()
        self.browser.wait_text("not one of this server's")
        self.browser.screenshot("login-refused-1280")
        self.log_in("ann", "/jobs")
        self.browser.wait_text("ann of acme")
        self.assertTrue(self.browser.driver.current_url.endswith("/jobs"))
        self.assertIn(self.job["id"], self.browser.text())
        self.browser.screenshot("logged-in-1280")
        cookie = self.browser.driver.get_cookie("quantd_session")
        self.assertTrue(cookie["httpOnly"])
        self.assertEqual(cookie["sameSite"], "Strict")
        self.assertEqual(self.browser.run("return document.cookie"), "")
        self.assertNotIn(self.token["ann"].split(".")[1], cookie["value"])
        self.browser.one(".who button").click()
        self.browser.wait_text("Log in")
        self.browser.open(self.url("/jobs"))
        self.assertNotIn(self.job["id"], self.browser.text())
        audit = self.audit.read_text()
        self.assertIn('"method":"page/login"', audit)
        self.assertIn('"reason":"TOKEN_INVALID"', audit)
        for token in self.token.values():
            self.assertNotIn(token.split(".")[1], audit)

    def test_each_sees_its_own(self):
        self.log_in("eve")
        self.assertNotIn(self.job["id"], self.browser.text())
        self.browser.open(self.url(f"/jobs/{self.job['id']}"))
        self.assertIn("Not to be shown", self.browser.text())
        self.log_in("ops")
        self.assertIn(self.job["id"], self.browser.text())
        self.assertIn(self.service.workers[0].id, self.browser.text())
        self.log_in("ann")
        self.assertNotIn(self.service.workers[0].id, self.browser.text())

    def test_a_revoked_token_closes_its_sessions(self):
        self.token["tmp"] = self.add("tmp", "--tenant", "acme")
        wait_until(lambda: self.status("/", self.token["tmp"]) == 200, "the new token")
        self.log_in("tmp")
        self.assertIn(self.job["id"], self.browser.text())
        subprocess.run([program("quantd"), "token", "revoke", "--tokens", str(self.tokens), "tmp"], check=True,
                       capture_output=True)
        wait_until(lambda: self.status("/", self.token["tmp"]) == 401, "the revocation")
        self.browser.open(self.url("/"))
        self.assertIn("revoked", self.browser.text())

    def status(self, path, token=None):
        request = urllib.request.Request(self.url(path), headers={"Authorization": f"Bearer {token}"} if token else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def test_a_header_will_do_and_metrics_need_nothing(self):
        self.assertEqual(self.status("/", self.token["ann"]), 200)
        self.assertEqual(self.status("/"), 401)
        self.assertEqual(self.status(f"/jobs/{self.job['id']}", self.token["eve"]), 404)
        self.assertEqual(self.status("/workers", self.token["ann"]), 403)
        self.assertEqual(self.status("/workers", self.token["ops"]), 200)
        for path in ("/metrics", "/healthz", "/readyz"):
            self.assertEqual(self.status(path), 200)


if __name__ == "__main__":
    if not have_browser():
        print("skipped: these tests need chromium, chromedriver and python3-selenium")
        sys.exit(77)
    main()
