# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus on loopback with the configuration, rules and console pages of deploy/prometheus.

  with Prometheus({"quantd": [address], "quant-worker": [address]}) as prometheus:
      prometheus.query("up")

Only what belongs to the place differs from deploy/prometheus/prometheus.yml: the targets, and shorter intervals.
"""
import datetime
import json
import math
import pathlib
import re
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

from service import TOP, Process, tail, wait_until

DEPLOY = TOP / "deploy/prometheus"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Prometheus:

    def __init__(self, targets, interval="1s"):
        """`targets`: addresses by the job_name of prometheus.yml; jobs without any are left out."""
        self.targets, self.interval = targets, interval
        self.folder = self.process = self.address = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def configuration(self):
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": self.interval, "scrape_timeout": self.interval,
                            "evaluation_interval": self.interval}
        config["rule_files"] = [str(DEPLOY / "rules" / "*.yml")]
        del config["alerting"]
        targets = {"prometheus": [self.address], **self.targets}
        config["scrape_configs"] = [{"job_name": scrape["job_name"],
                                     "static_configs": [{"targets": targets[scrape["job_name"]]}]}
                                    for scrape in config["scrape_configs"] if targets.get(scrape["job_name"])]
        return config

    def start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quant-prometheus."))
        for _ in range(3):  # the port may be taken between the look and the start
            self.address = f"127.0.0.1:{free_port()}"
            config = self.folder / "prometheus.yml"
            config.write_text(yaml.safe_dump(self.configuration()))
            self.process = Process(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={self.folder / 'data'}",
                                    f"--web.listen-address={self.address}", f"--web.console.templates={DEPLOY / 'consoles'}",
                                    f"--web.console.libraries={DEPLOY / 'console_libraries'}"], self.folder / "log")
            try:
                wait_until(lambda: not self.process.alive() or self.ready(), "Prometheus is ready")
            except BaseException:
                self.stop()
                raise
            if self.process.alive():
                return self
        raise AssertionError(f"Prometheus does not start; its log:\n{tail(self.folder / 'log')}")

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=30) as answer:
            return answer.read().decode()

    def api(self, path, **parameters):
        body = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}", body or None, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode(errors='replace')}") from None

    def query(self, expression):
        """[(labels, value)] now."""
        return [(r["metric"], float(r["value"][1])) for r in self.api("query", query=expression)["result"]]

    def query_range(self, expression, start, step=1):
        """[(labels, [finite values])] from `start` until now."""
        result = self.api("query_range", query=expression, start=start, end=time.time(), step=step)["result"]
        out = []
        for r in result:
            values = [float(v) for _, v in r["values"]]
            out.append((r["metric"], [v for v in values if math.isfinite(v)]))
        return out

    def scrapes(self, count=2):
        """Waits until every target was scraped, and every rule evaluated, that often from now on."""
        for _ in range(count):
            begun = time.time()
            wait_until(lambda: all(t["health"] == "up" and _seconds(t["lastScrape"]) > begun
                                   for t in self.api("targets")["activeTargets"]), "all targets are scraped")
            wait_until(lambda: all(_seconds(r["lastEvaluation"]) > begun
                                   for g in self.api("rules")["groups"] for r in g["rules"]), "all rules are evaluated")


def _seconds(stamp):
    """Of RFC 3339 with up to nanoseconds; fromisoformat takes microseconds."""
    return datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", stamp)).timestamp()
