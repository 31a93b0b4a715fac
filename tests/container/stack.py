# SPDX-License-Identifier: Apache-2.0
"""One stack of deploy/ under test: a copy of the folder, so that nobody's .env and secrets are touched, with a project
name and ports of its own, driven by deploy/stack as an operator does."""
import json
import os
import pathlib
import shutil
import socket
import ssl
import time
import urllib.parse

from engine import TOP, run

PATIENCE = 400.0  # a machine that compiles beside this one takes minutes to start everything


def wait_until(condition, what, timeout=PATIENCE, interval=0.5):
    """condition()'s first true value. What it raises counts as "not yet"."""
    deadline, last = time.monotonic() + timeout, None
    while True:
        try:
            if value := condition():
                return value
        except (AssertionError, OSError, ValueError, KeyError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:.0f} s still waiting: {what}" + (f"; last: {last}" if last else ""))
        time.sleep(interval)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Stack:
    def __init__(self, engine, project, image, s3_image, work, fleet=False):
        self.engine, self.project, self.image, self.fleet = engine, project, image, fleet
        self.deploy = pathlib.Path(work) / project / "deploy"
        shutil.copytree(TOP / "deploy", self.deploy, ignore=shutil.ignore_patterns("secrets", ".env"))
        self.port = free_port()
        self.environment = {**os.environ, "ENGINE": " ".join(engine.command), "COMPOSE": " ".join(engine.compose),
                            "COMPOSE_PROJECT_NAME": project, "QUANT_IMAGE": image, "S3_IMAGE": s3_image}
        self.environment.pop("QUANT_TOKEN", None)
        # Grafana is an image that only a registry has, and has no stand-in.
        self.services = ["quantd", "worker", "prometheus", "alertmanager"] + (["postgres", "s3"] if fleet else [])
        if not engine.lab:
            self.services.append("grafana")
        example = (self.deploy / ".env.example").read_text()
        for key, value in {"QUANT_PORT": self.port, "PROMETHEUS_PORT": free_port(), "ALERTMANAGER_PORT": free_port(),
                           "GRAFANA_PORT": free_port(), "QUANT_IMAGE": image, "S3_IMAGE": s3_image}.items():
            assert f"\n{key}=" in example, f".env.example has no {key}"
            example = "".join(f"{key}={value}\n" if line.startswith(key + "=") else line
                              for line in example.splitlines(keepends=True))
        (self.deploy / ".env.example").write_text(example)

    def stack(self, *args, check=True, timeout=600):
        return run([self.deploy / "stack", *args], check=check, timeout=timeout, env=self.environment)

    def up(self):
        self.stack("up", *(["--fleet"] if self.fleet else []), *self.services, timeout=1800)

    def down(self):
        for client in self.containers("client"):
            self.engine("rm", "-f", client)
        self.stack("down", "--volumes")

    def containers(self, service):
        return self.engine.containers(self.project, service)

    def wait_healthy(self, counts=None):
        """Waits for the health checks of every service; `counts`: how many containers of some there are to be."""
        for service in self.services:
            count = (counts or {}).get(service, 1)

            def all_healthy(service=service, count=count):
                found = self.containers(service)
                return len(found) >= count and all(self.engine.healthy(c) for c in found)
            wait_until(all_healthy, f"{count} healthy containers of {service}")

    def secret(self, name):
        return (self.deploy / "secrets" / name).read_text().strip()

    # ---- as a client

    def quantctl(self, *args, token=None, check=True):
        """quantctl of the image, in a container of the stack's network, as user without rights."""
        token = self.secret("operator-token") if token is None else token
        if not (client := self.containers("client")):
            network = next(iter(self.engine.inspect(self.containers("quantd")[0])["NetworkSettings"]["Networks"]))
            client = [self.engine("run", "-d", "--network", network, "--label", f"com.docker.compose.project={self.project}",
                                  "--label", "com.docker.compose.service=client", "-v",
                                  f"{self.deploy}/secrets/ca.pem:/run/ca.pem:ro", "-v", f"{TOP}/examples:/examples:ro",
                                  self.image, "sleep", "infinity")]
        return run([*self.engine.command, "exec", "-e", f"QUANT_TOKEN={token}", "-e", "QUANT_SERVER=quantd:9000",
                    "-e", "QUANT_TLS_CA=/run/ca.pem", client[0], "quantctl", *args], check=check, timeout=300)

    def ok(self, *args, **options):
        return json.loads(self.quantctl(*args, "--output", "json", **options).stdout)

    def tls_names(self):
        """Names in the certificate at the published port, as somebody on the host sees it who trusts the authority."""
        context = ssl.create_default_context(cafile=str(self.deploy / "secrets" / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("127.0.0.1", self.port), 10) as raw:
            with context.wrap_socket(raw, server_hostname="localhost") as tls:
                return [name for _, name in tls.getpeercert()["subjectAltName"]]

    # ---- Prometheus, asked from inside its container

    def prometheus(self, path, **query):
        url = f"http://127.0.0.1:9090{path}" + ("?" + urllib.parse.urlencode(query) if query else "")
        answer = json.loads(self.engine("exec", self.containers("prometheus")[0], "wget", "-q", "-O", "-", url))
        if answer["status"] != "success":
            raise AssertionError(f"{url}: {answer}")
        return answer["data"]

    def query(self, expression):
        """{labels as sorted text: value}"""
        return {", ".join(f"{k}={v}" for k, v in sorted(s["metric"].items())): float(s["value"][1])
                for s in self.prometheus("/api/v1/query", query=expression)["result"]}

    def total(self, expression):
        return sum(self.query(expression).values())

    def logs(self):
        for service in self.services:
            for container in self.engine.containers(self.project, service, everything=True):
                done = run([*self.engine.command, "logs", "--tail", "25", container], check=False)
                yield f"---- {service} {container[:12]}\n{(done.stdout + done.stderr).strip()}"
