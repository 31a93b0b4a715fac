#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""deploy/ as far as it can be checked without an engine or a cluster: the YAML parses, and everything that one part says
of another is true there: selectors, ports, volumes, settings, secrets, and the programs' flags."""
import pathlib
import re
import subprocess
import sys
import unittest

import yaml

from service import TOP, program

DEPLOY = TOP / "deploy"
BASE, KEDA = DEPLOY / "kubernetes" / "base", DEPLOY / "kubernetes" / "keda"


def documents(path):
    return [d for d in yaml.safe_load_all(path.read_text()) if d is not None]


def flags_of(name):
    """Flags in the program's --help."""
    text = subprocess.run([program(name), "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    return set(re.findall(r"^\s+(--[a-z0-9-]+)", text, re.M))


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)?", str(text)).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, None: 1}[unit]


class Deploy(unittest.TestCase):
    def check_command(self, command):
        """A command line of ours: the program is there and knows the flags."""
        self.assertIn(command[0], ("quantd", "quant-worker"))
        known = flags_of(command[0])
        for argument in command[1:]:
            self.assertRegex(argument, r"^--[a-z-]+=", f"{argument}: --flag=value is wanted, one a line")
            self.assertIn(argument.split("=")[0], known, f"{command[0]} has no such flag")
        return dict(argument[2:].split("=", 1) for argument in command[1:])


class Kubernetes(Deploy):
    @classmethod
    def setUpClass(cls):
        cls.all = [d for folder in (BASE, KEDA) for path in sorted(folder.glob("*.yaml"))
                   if path.name != "kustomization.yaml" for d in documents(path)]
        cls.workloads = [d for d in cls.all if d["kind"] == "Deployment"]
        cls.pods = {d["metadata"]["name"]: d["spec"]["template"] for d in cls.workloads}
        cls.secrets = {d["metadata"]["name"]: set(d["stringData"])
                       for d in documents(DEPLOY / "kubernetes" / "secrets.example.yaml")}
        cls.settings = {d["metadata"]["name"]: set(d["data"]) for d in cls.all if d["kind"] == "ConfigMap"}

    def of_kind(self, kind):
        found = [d for d in self.all if d["kind"] == kind]
        self.assertTrue(found, f"there is no {kind}")
        return found

    def selected(self, labels):
        """Pods that the labels select: there must be some."""
        found = [name for name, pod in self.pods.items() if labels.items() <= pod["metadata"]["labels"].items()]
        self.assertTrue(found, f"{labels} selects no pod")
        return found

    def containers(self):
        for name, pod in self.pods.items():
            for container in pod["spec"]["containers"]:
                yield name, pod["spec"], container

    def ports(self, pod):
        return {p["name"]: p["containerPort"] for c in self.pods[pod]["spec"]["containers"] for p in c["ports"]}

    def test_kustomizations_list_every_file_and_every_object_has_a_name_of_its_own(self):
        for folder in (BASE, KEDA):
            listed = documents(folder / "kustomization.yaml")[0]["resources"]
            self.assertEqual(sorted(listed), sorted(p.name for p in folder.glob("*.yaml") if p.name != "kustomization.yaml"))
        names = [(d["kind"], d["metadata"]["name"]) for d in self.all]
        self.assertEqual(len(names), len(set(names)), names)
        for d in self.all:
            self.assertIn("apiVersion", d)
            self.assertEqual(d["metadata"]["labels"]["app.kubernetes.io/part-of"], "quantd", d["metadata"])
            self.assertNotIn("namespace", d["metadata"], "the overlay says which namespace")
        renamed = {i["name"] for i in documents(BASE / "kustomization.yaml")[0]["images"]}
        self.assertEqual(renamed, {c["image"] for _, _, c in self.containers()})

    def test_selectors_match_labels(self):
        for d in self.workloads:
            self.assertEqual(self.selected(d["spec"]["selector"]["matchLabels"]), [d["metadata"]["name"]])
        for d in self.of_kind("Service"):
            pods = self.selected(d["spec"]["selector"])
            for port in d["spec"]["ports"]:
                for pod in pods:
                    self.assertIn(port["targetPort"], self.ports(pod))
        for d in self.of_kind("PodDisruptionBudget"):
            self.selected(d["spec"]["selector"]["matchLabels"])
        for d in self.of_kind("PodMonitor"):
            pods = self.selected(d["spec"]["selector"]["matchLabels"])
            self.assertEqual(sorted(pods), sorted(self.pods), "somebody is not watched")
            for endpoint in d["spec"]["podMetricsEndpoints"]:
                for pod in pods:
                    self.assertIn(endpoint["port"], self.ports(pod))
                    self.assertIn(d["spec"]["jobLabel"], self.pods[pod]["metadata"]["labels"])

    def test_network_policies_let_through_what_is_needed(self):
        closed, reached = set(), set()
        for d in self.of_kind("NetworkPolicy"):
            pods = self.selected(d["spec"]["podSelector"]["matchLabels"])
            self.assertEqual(set(d["spec"]["policyTypes"]), {"Ingress", "Egress"})
            if "ingress" not in d["spec"]:
                closed |= set(pods)
                continue
            for rule in d["spec"]["ingress"]:
                for port in rule["ports"]:
                    for pod in pods:
                        self.assertIn(port["port"], self.ports(pod))
                        reached.add((pod, port["port"]))
            for rule in d["spec"]["egress"]:
                for to in rule.get("to", []):
                    if "podSelector" in to:
                        for pod in self.selected(to["podSelector"]["matchLabels"]):
                            for port in rule["ports"]:
                                self.assertIn(port["port"], self.ports(pod).values())
                    self.assertNotIn("ipBlock", to)
        self.assertEqual(closed, set(self.pods), "a pod is open where nothing names it")
        self.assertEqual(reached, {(pod, port) for pod in self.pods for port in self.ports(pod)})
        worker = next(d for d in self.all if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "quant-worker")
        for rule in worker["spec"]["egress"]:
            self.assertIn("to", rule, "a worker may not reach everybody")

    def test_references_to_settings_and_secrets_exist(self):
        used = set()

        def refer(known, name, keys):
            self.assertIn(name, known)
            self.assertLessEqual(set(keys), known[name], name)
            used.add(name)
        for _, spec, container in self.containers():
            environment = {e["name"]: e["valueFrom"] for e in container.get("env", [])}
            for source in environment.values():
                if "configMapKeyRef" in source:
                    refer(self.settings, source["configMapKeyRef"]["name"], [source["configMapKeyRef"]["key"]])
                else:
                    refer(self.secrets, source["secretKeyRef"]["name"], [source["secretKeyRef"]["key"]])
            for name in re.findall(r"\$\((\w+)\)", " ".join(container["args"])):
                self.assertIn(name, environment)
            volumes = {v["name"]: v for v in spec["volumes"]}
            self.assertEqual(sorted(volumes), sorted(m["name"] for m in container["volumeMounts"]))
            for mount in container["volumeMounts"]:
                secret = volumes[mount["name"]].get("secret")
                if secret is None:
                    continue
                keys = [i["key"] for i in secret.get("items", [])] or self.secrets.get(secret["secretName"], set())
                refer(self.secrets, secret["secretName"], keys)
                # "must not be writable by group or others": quantd refuses tokens otherwise
                self.assertEqual(secret["defaultMode"], 0o440)
                # every file of it that a flag names is a key
                for argument in container["args"]:
                    if f"={mount['mountPath']}/" in argument:
                        self.assertIn(argument.rsplit("/", 1)[1], keys)
        for d in self.of_kind("TriggerAuthentication"):
            for reference in d["spec"]["secretTargetRef"]:
                refer(self.secrets, reference["name"], [reference["key"]])
        self.assertEqual(used, set(self.secrets) | set(self.settings), "some are there for nobody")

    def test_commands_probes_and_times_fit_the_programs(self):
        for name, spec, container in self.containers():
            flags = self.check_command(container["args"])
            self.assertEqual(container["args"][0], name)
            ports = self.ports(name)
            self.assertEqual(flags["metrics"], f":{ports['metrics']}")
            if "listen" in flags:
                self.assertEqual(flags["listen"], f":{ports['grpc']}")
            for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
                probe = container.get(kind, {})
                if "httpGet" in probe:
                    self.assertIn(probe["httpGet"]["port"], ports)
                    self.assertIn(probe["httpGet"]["path"], ("/healthz", "/readyz", "/metrics"))
                elif probe:
                    self.assertEqual(probe["exec"]["command"], [name, "probe", f"--metrics={flags['metrics']}"])
            self.assertIn("livenessProbe", container)
            self.assertIn("readinessProbe", container)
            stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
            drain = flags.get("drain-timeout") or flags["drain-grace"]
            self.assertGreater(spec["terminationGracePeriodSeconds"], seconds(stop[1]) + seconds(drain))
            for flag in ("data", "cache"):
                if flag in flags:
                    self.assertIn(flags[flag], [m["mountPath"] for m in container["volumeMounts"]])

    def test_security_contexts_are_those_that_the_sandbox_is_documented_with(self):
        for _, spec, container in self.containers():
            self.assertTrue(spec["securityContext"]["runAsNonRoot"])
            self.assertEqual(spec["securityContext"]["runAsUser"], 10001)
            self.assertIn("10001:10001", (TOP / "Dockerfile").read_text())
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertFalse(spec["automountServiceAccountToken"])
            self.assertEqual(container["securityContext"], {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                            "capabilities": {"drop": ["ALL"]}})

    def test_keda_scales_the_workers_that_are_there(self):
        scaled = self.of_kind("ScaledObject")[0]["spec"]
        self.assertIn(scaled["scaleTargetRef"]["name"], self.pods)
        trigger = scaled["triggers"][0]
        self.assertEqual(trigger["type"], "external-push")
        worker = self.pods[scaled["scaleTargetRef"]["name"]]["spec"]["containers"][0]["args"]
        self.assertIn(f"--slots={trigger['metadata']['slotsPerWorker']}", worker)
        service = self.of_kind("Service")[0]
        self.assertEqual(trigger["metadata"]["scalerAddress"], f"{service['metadata']['name']}.quantd.svc:"
                                                               f"{service['spec']['ports'][0]['port']}")
        self.assertIn(trigger["authenticationRef"]["name"],
                      [d["metadata"]["name"] for d in self.of_kind("TriggerAuthentication")])
        # What quantd says to this metadata: keda_test.


class Compose(Deploy):
    def setUp(self):
        self.one = documents(DEPLOY / "compose.yaml")[0]
        self.fleet = documents(DEPLOY / "compose.fleet.yaml")[0]

    def test_commands_are_those_of_the_programs(self):
        for name in ("quantd", "worker"):
            flags = self.check_command(self.one["services"][name]["command"])
            if name == "worker":
                grace = seconds(self.one["services"][name]["stop_grace_period"])
                self.assertGreater(grace, seconds(flags["drain-grace"]))

    def test_every_service_has_a_health_check_limits_and_a_restart_policy(self):
        for name, service in {**self.one["services"], **{k: v for k, v in self.fleet["services"].items() if "image" in v}}.items():
            with self.subTest(name):
                self.assertIn("test", service["healthcheck"])
                self.assertLessEqual({"cpus", "memory"}, set(service["deploy"]["resources"]["limits"]))
                self.assertEqual(service["restart"], "unless-stopped")

    def test_volumes_and_secrets_are_declared_and_made(self):
        script = (DEPLOY / "stack").read_text()
        for document in (self.one, self.fleet):
            for service in document["services"].values():
                for volume in service.get("volumes", []):
                    source = volume.split(":")[0]
                    if source.startswith("./"):
                        folder = DEPLOY / source
                        # grafana and secrets: others make them
                        self.assertTrue(folder.exists() or source.startswith(("./secrets", "./grafana")), source)
                    else:
                        self.assertIn(source, document["volumes"])
                for secret in service.get("secrets", []):
                    self.assertIn(secret, document["secrets"])
            for secret in document["secrets"].values():
                self.assertTrue(secret["file"].startswith("./secrets/"))
                self.assertIn(pathlib.Path(secret["file"]).name.split("-")[-1].split(".")[0], script, secret)

    def test_settings_and_their_example_agree(self):
        example = (DEPLOY / ".env.example").read_text()
        known = set(re.findall(r"^(?:#fleet )?([A-Z_0-9]+)=", example, re.M))
        used = set()
        for name in ("compose.yaml", "compose.fleet.yaml"):
            for variable, default in re.findall(r"\$\{([A-Z_0-9]+):-([^}]*)\}", (DEPLOY / name).read_text()):
                used.add(variable)
                self.assertIn(f"\n{variable}={default}\n", example, "another default than in .env.example")
        self.assertEqual(known - used, {"COMPOSE_FILE", "QUANT_NAMES"})  # for deploy/stack

    def test_the_stand_ins_are_those_of_the_images(self):
        sys.path.insert(0, str(TOP / "tests" / "container"))
        import engine
        images = {s["image"] for d in (self.one, self.fleet) for s in d["services"].values()
                  if not s.get("image", "$").startswith("$")}
        self.assertEqual(images - set(engine.STAND_INS), {i for i in images if "grafana" in i})
        self.assertEqual(set(engine.STAND_INS) - images, set())


class Image(unittest.TestCase):
    def test_the_package_lists_that_it_reads_are_there(self):
        text = (TOP / "Dockerfile").read_text()
        for name in re.findall(r"([a-z]+\.txt)", text):
            if name != "packages.txt":  # made by deploy/image/collect
                self.assertTrue((DEPLOY / "debian" / name).exists(), name)
        for program_name in ("quantd", "quant-worker", "quantctl"):
            self.assertIn(program_name, (DEPLOY / "image" / "collect").read_text())

    def test_collect_lists_the_packages_of_every_library(self):
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([DEPLOY / "image" / "collect", pathlib.Path(program("quantd")).parent, folder], check=True,
                           capture_output=True, timeout=300)
            packages = (pathlib.Path(folder) / "packages.txt").read_text().split()
            owned = set()
            for package in packages:
                owned |= set(subprocess.run(["dpkg-query", "-L", package], capture_output=True, text=True,
                                            check=True).stdout.splitlines())
            for name in ("quantd", "quant-worker", "quantctl"):
                binary = pathlib.Path(folder) / "bin" / name
                for line in subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout.splitlines():
                    if match := re.search(r"=> (/\S+)", line):
                        self.assertIn(str(pathlib.Path(match[1]).resolve()), owned, line)


if __name__ == "__main__":
    unittest.main(verbosity=2)
