# SPDX-License-Identifier: Apache-2.0
"""The configuration of Prometheus and Alertmanager and the alerts, without a service: promtool's and amtool's verdicts, that
each alert has tests and links that lead somewhere, and that rules and dashboards ask only for metrics there are."""
import pathlib
import re
import subprocess
import sys
import unittest

import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = TOP / "deploy"
RULES = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
TESTS = sorted((DEPLOY / "prometheus/tests").glob("*_test.yml"))

# service.md section 2 promises these; more may be there.
PROMISED = {
    "QuantQueueWaitHigh", "QuantNoWorkers", "QuantJobFailureRatioHigh", "QuantThroughputCollapsed", "QuantLeaseExpirySpike",
    "QuantStaleReports", "QuantDeadJobs", "QuantWorkerHeartbeatStale", "QuantWorkerStuck", "QuantCasNearlyFull",
    "QuantDigestMismatch", "QuantGrpcErrorBudgetBurn", "QuantAccuracyRegression", "QuantLatencyRegression", "QuantScrapeDown",
    "QuantCertExpiry"}


def run(*argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def rules():
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


ALERTS = [rule for rule in rules() if "alert" in rule]
NAMES = {rule["alert"] for rule in ALERTS}


class PrometheusRulesTest(unittest.TestCase):

    def test_promtool_takes_configuration_and_rules(self):
        for argv in (("check", "config", DEPLOY / "prometheus/prometheus.yml"), ("check", "rules", *RULES)):
            code, text = run("promtool", *argv)
            self.assertEqual(code, 0, text)
            self.assertNotIn("lint error", text)

    def test_amtool_takes_the_example(self):
        code, text = run("amtool", "check-config", DEPLOY / "alertmanager/alertmanager.yml")
        self.assertEqual(code, 0, text)
        for severity, receiver in (("critical", "on-call"), ("warning", "operators")):
            code, text = run("amtool", "config", "routes", "test", "--config.file", DEPLOY / "alertmanager/alertmanager.yml",
                             "--verify.receivers", receiver, f"severity={severity}")
            self.assertEqual(code, 0, text)

    def test_promtool_runs_the_tests_of_the_rules(self):
        self.assertEqual(len(TESTS), 2)
        code, text = run("promtool", "test", "rules", *TESTS)
        self.assertEqual(code, 0, text)

    def test_each_alert_is_seen_firing_and_silent(self):
        fires, silent = set(), set()
        for path in TESTS:
            for group in yaml.safe_load(path.read_text())["tests"]:
                for check in group.get("alert_rule_test", []):
                    for alert in check["exp_alerts"]:
                        fires.add((check["alertname"], alert["exp_labels"]["severity"]))
                    if not check["exp_alerts"]:
                        silent.add(check["alertname"])
        self.assertEqual(fires, {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS})
        self.assertEqual(silent, NAMES)

    def test_all_promised_alerts_are_there_with_what_an_operator_needs(self):
        self.assertLessEqual(PROMISED, NAMES)
        scrape = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
        for rule in ALERTS:
            with self.subTest(alert=rule["alert"]):
                self.assertIn(rule["labels"]["severity"], ("warning", "critical"))
                self.assertEqual(set(rule["annotations"]), {"summary", "description", "runbook", "console", "grafana"})
                self.assertGreaterEqual(_seconds(rule["for"]), 2 * _seconds(scrape))

    def test_links_lead_somewhere(self):
        for rule in ALERTS:
            links = rule["annotations"]
            with self.subTest(alert=rule["alert"]):
                document, anchor = links["runbook"].split("#")
                headings = re.findall(r"^#+ (.*)$", (TOP / document).read_text(), re.M)
                self.assertIn(anchor, [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings])
                self.assertEqual(anchor, rule["alert"].lower())
                name = links["grafana"].removeprefix("/d/quant-")
                self.assertTrue((DEPLOY / "grafana/dashboards" / f"{name}.json").exists(), links["grafana"])
                self.assertEqual(links["console"], f"/consoles/{name}.html")
                self.assertTrue((DEPLOY / "prometheus" / links["console"].lstrip("/")).exists())

    def test_runbooks_name_every_alert_and_no_other(self):
        headings = re.findall(r"^## (Quant\w+)$", (TOP / "docs/runbooks.md").read_text(), re.M)
        self.assertEqual(sorted(headings), sorted(NAMES))

    def test_only_metrics_that_exist_are_asked_for(self):
        documented = set(re.findall(r"\b(?:quant|grpc_server|process)_\w+", (TOP / "docs/metrics.md").read_text()))
        recorded = {rule["record"] for rule in rules() if "record" in rule}
        texts = [path.read_text() for path in RULES]
        texts += [path.read_text() for path in (DEPLOY / "grafana/dashboards").glob("*.json")]
        for text in texts:
            text = re.sub(r"name: quant_\w+|^ *#.*$", "", text, flags=re.M)
            for name in set(re.findall(r"\b(?:quant|grpc_server|process)_\w+", text)):
                base = re.sub(r"_(bucket|count|sum)$", "", name)
                self.assertTrue({name, base} & documented, f"{name} is not in docs/metrics.md")
            for name in set(re.findall(r"\bquant:\w+(?::\w+)*", text)):
                self.assertIn(name, recorded)

    def test_dashboards_are_as_generated(self):
        code, text = run(sys.executable, DEPLOY / "dashboards/generate.py", "--check")
        self.assertEqual(code, 0, text)

    def test_grafana_is_provisioned_with_what_the_dashboards_name(self):
        folder = DEPLOY / "grafana/provisioning"
        sources = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
        self.assertEqual([s["uid"] for s in sources], ["quant-prometheus"])
        self.assertEqual(sources[0]["jsonData"]["timeInterval"],
                         yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["global"]["scrape_interval"])
        providers = yaml.safe_load((folder / "dashboards/quantd.yml").read_text())["providers"]
        self.assertEqual(providers[0]["options"]["path"], "/var/lib/grafana/dashboards")


def _seconds(text):
    number, unit = re.fullmatch(r"(\d+)([smh])", text).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


if __name__ == "__main__":
    unittest.main(verbosity=2)
