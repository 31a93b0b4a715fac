# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium for tests: pages at a width, light or dark, as pictures and as PDF, and what must hold of each page.

  with Browser() as browser:
      browser.open("http://…", width=390)
      browser.assert_fits()
      browser.screenshot("status-390")

Pictures go to $QUANT_SCREENSHOTS where it is set (a folder, made when missing), to look at; else nowhere.
"""
import base64
import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import time

try:
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service as DriverService
    from selenium.webdriver.common.by import By
except ImportError:  # shown as skipped by skip_without_browser
    webdriver = By = None

# What a hostile text tries: markup, attributes, entities, and an address that is a script.
HOSTILE = "<script>window.hit=1</script>\"'><img src=x onerror=window.hit=1><a href=javascript:window.hit=1>x</a>&lt;b&gt;"


def have_browser():
    return webdriver is not None and shutil.which("chromium") and shutil.which("chromedriver")


class Browser:
    def __init__(self):
        options = Options()
        self._profile = tempfile.mkdtemp(prefix="quant-browser.")
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                     "--disable-background-networking", "--no-first-run", f"--user-data-dir={self._profile}"):
            options.add_argument(flag)
        options.binary_location = shutil.which("chromium")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=DriverService(shutil.which("chromedriver")))
        self.driver.set_page_load_timeout(60)
        self.driver.set_script_timeout(30)
        self.width, self.dark = 0, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        with contextlib.suppress(Exception):
            self.driver.quit()
        shutil.rmtree(self._profile, ignore_errors=True)

    def cdp(self, command, **arguments):
        return self.driver.execute_cdp_cmd(command, arguments)

    def show(self, width=1280, dark=False):
        """How wide the window is and which colours it asks for."""
        self.width, self.dark = width, dark
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600)
        self.cdp("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, url, width=1280, dark=False):
        self.show(width, dark)
        self.driver.get(str(url))
        return self

    def text(self):
        """What is to be read on the page, once it is there."""
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.run("return document.readyState") == "complete":
                    return self.driver.find_element(By.TAG_NAME, "body").text
            except WebDriverException:  # between two pages
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def wait_text(self, wanted):
        """Until the page says so: after a click that leads to another."""
        deadline = time.monotonic() + 60
        while wanted not in self.text():
            assert time.monotonic() < deadline, f"no {wanted!r} on {self.driver.current_url}:\n{self.text()}"
            time.sleep(0.02)

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def run(self, script):
        return self.driver.execute_script(script)

    # ---- what must hold

    def assert_fits(self):
        """Nothing is wider than the window; what scrolls sideways does so inside its own box."""
        wide, room = self.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room, f"{self.driver.current_url}: {wide} px wide in a window of {room}"

    def assert_inert(self):
        """No script ran or could run, and nothing was embedded."""
        assert self.run("return window.hit === undefined"), "a hostile text ran as a script"
        found = [e.tag_name for e in self.all("script,img,iframe,object,embed,link[rel=stylesheet],base")]
        assert not found, f"{self.driver.current_url} has {found}"
        risky = self.run("return [...document.querySelectorAll('*')].flatMap(e => [...e.attributes])"
                         ".filter(a => a.name.startsWith('on') || a.name === 'style' || /^javascript:/i.test(a.value))"
                         ".map(a => a.name + '=' + a.value)")
        assert not risky, f"{self.driver.current_url} has {risky}"
        self.run("const s = document.createElement('script'); s.textContent = 'window.planted = 1';"
                 "document.body.append(s); s.remove()")
        assert self.run("return window.planted === undefined"), "the page's policy lets a planted script run"
        self.console()  # it complained of that script

    def console(self):
        """Messages of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """Addresses asked for since the last call, those of the page itself among them."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    # ---- pictures

    def screenshot(self, name):
        """The whole page as PNG bytes, kept under `name` where somebody wants to look at it."""
        size = self.cdp("Page.getLayoutMetrics")["cssContentSize"]
        height = min(max(size["height"], 844), 12000)
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=True, format="png",
                        clip={"x": 0, "y": 0, "width": self.width, "height": height, "scale": 1})
        return self._keep(f"{name}.png", base64.b64decode(shot["data"]))

    def pdf(self, name):
        """The page as it is printed on A4."""
        made = self.cdp("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        return self._keep(f"{name}.pdf", base64.b64decode(made["data"]))

    @staticmethod
    def _keep(name, data):
        folder = os.environ.get("QUANT_SCREENSHOTS")
        if folder:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            (pathlib.Path(folder) / name).write_bytes(data)
        return data
