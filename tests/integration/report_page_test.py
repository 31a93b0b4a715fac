# SPDX-License-Identifier: Apache-2.0
"""The HTML report in headless Chromium: what three real jobs wrote (static INT8 of an ONNX network, GPTQ of a language model,
and a tune job)."""
import re
import sys

from browser import Browser, have_browser
from service import EXAMPLE, TOP, ServiceTestCase, main, wait_until

STORIES = TOP / "examples" / "stories"
WIDTHS = (390, 1280)


class ReportPageTest(ServiceTestCase):

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)
        service = cls.share_service()
        jobs = {}
        model = service.ok("model", "upload", EXAMPLE / "model.onnx", "--name", "shapes")["id"]
        jobs["shapes"] = service.run_job(
            "--model", model, "--method", "static", "--calibration", service.upload("dataset", EXAMPLE / "calibration"),
            "--evaluation", service.upload("dataset", EXAMPLE / "evaluation"))
        model = service.ok("model", "upload", STORIES / "model", "--name", "stories")["id"]
        jobs["stories"] = service.run_job(
            "--model", model, "--method", "gptq", "--bits", "4", "--group-size", "128", "--calibration",
            service.upload("dataset", STORIES / "calibration"), "--evaluation",
            service.upload("dataset", STORIES / "evaluation"), "--calibration-samples", "8", "--evaluation-samples", "8",
            timeout=600)
        jobs["tuned"] = service.run_job(
            "--kind", "tune", "--model", model, "--calibration", service.upload("dataset", STORIES / "calibration"),
            "--evaluation", service.upload("dataset", STORIES / "evaluation"), "--candidates",
            "rtn:2:128,rtn:3:128,rtn:4:128,gptq:4:128,nf4,rtn:8:128,rtn:4:100", "--calibration-samples", "8",
            "--evaluation-samples", "8", "--max-drop", "0.1", timeout=600)
        cls.reports = {name: service.report(job["id"]) for name, job in jobs.items()}
        cls.text = {name: service.quantctl("job", "report", job["id"]).out for name, job in jobs.items()}
        cls.pages = {}
        for name, job in jobs.items():
            html = service.quantctl("job", "report", job["id"], "--format", "html")
            assert html.code == 0, html
            cls.pages[name] = service.folder / f"{name}.html"
            cls.pages[name].write_text(html.out)

    def each(self):
        for name, page in self.pages.items():
            yield name, page.as_uri(), self.reports[name]

    def test_the_page_asks_for_nothing_and_runs_nothing(self):
        for name, url, _ in self.each():
            self.browser.requests()
            self.browser.open(url)
            self.assertEqual([r for r in self.browser.requests() if not r.startswith("data:")], [url])
            self.assertEqual(self.browser.console(), [])
            self.browser.assert_inert()
            html = self.pages[name].read_text()
            self.assertIsNone(re.search(r"https?:|src=|href=|@import|url\(", html))

    def test_it_fits_a_phone_and_a_desk_light_and_dark(self):
        for name, url, _ in self.each():
            for width in WIDTHS:
                for dark in (False, True):
                    self.browser.open(url, width, dark)
                    self.browser.assert_fits()
                    self.browser.screenshot(f"report-{name}-{width}{'-dark' if dark else ''}")
                    # Every bar and mark is inside its plot.
                    outside = self.browser.run(
                        "return [...document.querySelectorAll('svg rect')].filter(r => {"
                        " const x = r.x.baseVal.value, w = r.width.baseVal.value;"
                        " return !(x >= 0 && w >= 0 && x + w <= 100.01) }).map(r => r.outerHTML)")
                    self.assertEqual(outside, [])
            background = self.browser.run("return getComputedStyle(document.body).backgroundColor")
            self.assertNotEqual(background, "rgb(255, 255, 255)")

    def test_every_part_of_the_report_is_there(self):
        for name, url, report in self.each():
            self.browser.open(url)
            text = self.browser.text()
            for heading in ("Before and after", "Change with its 95 % interval", "Size on disk", "Latency",
                            "Bits by layer", "Signal to quantization noise by layer", "Time by phase", "Layers",
                            "Provenance"):
                self.assertIn(heading, text)
            self.assertEqual(len(self.browser.all(".bit")), len(report["layers"]))
            quantized = [l for l in report["layers"] if l["method"] != "fp32"]
            self.assertEqual(sorted(e.text for e in self.browser.all(".bit:not(.b32)")),
                             sorted(str(l["bits"]) for l in quantized))
            outlined = [l for l in report["layers"] if l["fallback"]]
            self.assertEqual(len(self.browser.all(".bit.fb")), len(outlined))
            for phase in report["phases"]:
                self.assertIn(phase["name"], text)
            self.assertIn(report["provenance"]["model_digest"], text)
            self.assertIn(report["provenance"]["result_digest"], text)
            for summary in self.browser.all("summary"):
                summary.click()
            opened = self.browser.text()
            for layer in report["layers"]:
                self.assertIn(layer["name"], opened)
            self.browser.show(390)
            self.browser.assert_fits()  # also with the wide table open

    def test_a_language_models_bits_stand_in_rows_of_blocks(self):
        self.browser.open(self.pages["stories"].as_uri())
        rows = [e.text for e in self.browser.all(".map > span")]
        blocks = {re.match(r".*?\.\d+", l["name"])[0] for l in self.reports["stories"]["layers"]}
        self.assertEqual(len(rows), len(blocks))
        self.assertEqual(set(rows), blocks)

    def test_a_tune_jobs_candidates_stand_in_the_plot_and_the_table(self):
        tuning = self.reports["tuned"]["tuning"]
        self.browser.open(self.pages["tuned"].as_uri())
        made = [t for t in tuning["trials"] if not t["error"]]
        self.assertEqual(len(tuning["trials"]), 7)
        self.assertEqual(len(made), 6, "groups of 100 fit no layer")
        self.assertEqual(len(self.browser.all(".scatter circle, .scatter path:not(.front)")), len(made))
        self.assertEqual(len(self.browser.all(".scatter .chosen")), 1)
        self.assertEqual(len(self.browser.all(".scatter path.front")), 1)
        outside = self.browser.run(
            "const svg = document.querySelector('.scatter').getBoundingClientRect();"
            "return [...document.querySelectorAll('.scatter text, .scatter circle')].filter(e => {"
            " const r = e.getBoundingClientRect(); return r.left < svg.left - 1 || r.right > svg.right + 1 ||"
            " r.top < svg.top - 1 || r.bottom > svg.bottom + 1 }).map(e => e.outerHTML)")
        self.assertEqual(outside, [])
        text = self.browser.text()
        for trial in tuning["trials"]:
            self.assertIn(trial["name"], text)
        for word in ("chosen", "loses too much", "no model"):
            self.assertIn(word, text)

    def test_it_prints_on_paper_with_all_that_is_folded(self):
        for name, url, report in self.each():
            self.browser.open(url)
            self.assertTrue(self.browser.pdf(f"report-{name}").startswith(b"%PDF"))
            self.browser.cdp("Emulation.setEmulatedMedia", media="print")
            try:
                hidden = ("return [...document.querySelectorAll('details td')].filter(e => !e.checkVisibility("
                          "{contentVisibilityAuto: true})).length")
                # The style follows the media a moment later.
                wait_until(lambda: self.browser.run(hidden) == 0, f"every cell of {name} on paper", timeout=10)
                self.assertEqual(self.browser.run("return getComputedStyle(document.body).backgroundColor"),
                                 "rgb(255, 255, 255)")
            finally:
                self.browser.cdp("Emulation.setEmulatedMedia", media="")

    def test_the_text_form_fits_a_hundred_columns(self):
        for name, text in self.text.items():
            self.assertLessEqual(max(map(len, text.splitlines())), 100, name)


if __name__ == "__main__":
    if not have_browser():
        print("skipped: these tests need chromium, chromedriver and python3-selenium")
        sys.exit(77)
    main()
