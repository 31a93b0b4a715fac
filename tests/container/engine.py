# SPDX-License-Identifier: Apache-2.0
"""What the container test runs on: Docker with Compose where an engine answers, else podman by way of container-lab."""
import ctypes
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
BASE = "docker.io/library/debian:trixie-slim"
STAND_INS = {"docker.io/prom/prometheus:v2.53.3": "prometheus", "docker.io/prom/alertmanager:v0.28.1": "alertmanager",
             "docker.io/library/postgres:17": "postgres"}


class Missing(Exception):
    """Why the test cannot run here, and what would help."""


def run(argv, check=True, timeout=120, env=None, stdin=None, cwd=None):
    done = subprocess.run([str(a) for a in argv], capture_output=True, timeout=timeout, env=env, input=stdin, cwd=cwd,
                          text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout[-3000:]}"
                             f"{done.stderr[-3000:]}")
    return done


class Engine:
    """docker, or `container-lab podman`."""

    def __init__(self, command, compose, lab=None):
        self.command, self.compose, self.lab = command, compose, lab

    @staticmethod
    def find():
        if shutil.which("docker") and run(["docker", "info"], check=False).returncode == 0:
            if run(["docker", "compose", "version"], check=False).returncode != 0:
                raise Missing("Docker answers, but has no Compose: install docker-compose-plugin")
            return Engine(["docker"], ["docker", "compose"])
        shared = pathlib.Path(os.environ.get("QUANT_SHARED", TOP.parent / "shared"))
        lab = pathlib.Path(os.environ.get("QUANT_CONTAINER_LAB", shared / "tools" / "container-lab"))
        if not lab.exists():
            raise Missing(f"no Docker engine answers, and there is no {lab}: start Docker, or let QUANT_CONTAINER_LAB "
                          "name the script container-lab, which does with podman")
        if os.geteuid() != 0:
            raise Missing(f"no Docker engine answers, and {lab} needs root")
        if not all(shutil.which(p) for p in ("podman", "buildah", "podman-compose", "debootstrap", "ip")):
            raise Missing(f"no Docker engine answers, and podman is not complete: {lab} setup installs it")
        return Engine(["podman"], ["podman-compose"], lab)

    def enter(self):
        """With container-lab: runs this program again in namespaces of its own, and never returns there.

        container-lab gives each command a mount namespace, in which the network of a container that was started in it
        ends; a stack lives over many commands, so all of them share one here. With its process namespace, containers end
        with the test however it ends. What a killed test left on disk, the next one removes."""
        if not self.lab or os.environ.get("QUANT_CONTAINER_INSIDE"):
            return
        run([self.lab, "podman", "--version"])  # writes containers.conf
        environment = {**os.environ, "QUANT_CONTAINER_INSIDE": "1", "BUILDAH_ISOLATION": "chroot",
                       "CONTAINERS_CONF": "/var/tmp/container-lab/containers.conf"}
        script = 'umount /sys/fs/cgroup/unified 2>/dev/null; "$@"; exit $?'  # bash stays, and reaps
        sys.stdout.flush()
        os.execvpe("unshare", ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script,
                               "bash", sys.executable, *sys.argv], environment)

    def only_one(self):
        """Waits for other runs of this test on this machine, and removes what killed ones left."""
        if not self.lab:
            return None
        lock = open("/var/tmp/container-lab/test.lock", "w", encoding="utf-8")
        fcntl.flock(lock, fcntl.LOCK_EX)
        stale = {label for line in self("ps", "-a", "--format", '{{index .Labels "com.docker.compose.project"}}').splitlines()
                 if (label := line.strip()).startswith("quant-test-")}
        for project in stale:
            self.remove_stack(project)
        return lock

    def leave_network(self):
        """With podman: from here on this program and what it starts have a network of their own, without a way out. The
        rules by which podman leads ports of loopback to containers end with it, however the test ends, and so do the
        addresses and names that it gave. On the host those of a killed test would stay: rules would catch whoever is
        given such a port, and a name would lead to a container that is gone."""
        if not self.lab:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        clone_newnet = 0x40000000
        if libc.unshare(clone_newnet) != 0:
            error = ctypes.get_errno()
            raise AssertionError(f"no network namespace of its own: {os.strerror(error)}")
        run(["ip", "link", "set", "lo", "up"])
        state = pathlib.Path("/run/containers/networks")
        state.mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "tmpfs", state])

    def __call__(self, *args, **options):
        return run([*self.command, *args], **options).stdout.strip()

    def build(self, tag, folder, log, *args):
        """Builds an image, its output to the file `log`."""
        argv = ([self.lab, "build", tag, folder, "--layers", "--format", "docker", *args] if self.lab
                else ["docker", "build", "-t", tag, *args, folder])
        with open(log, "w", encoding="utf-8") as out:
            done = subprocess.run([str(a) for a in argv], stdout=out, stderr=out, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}; the end of its output:\n"
                                 + "\n".join(pathlib.Path(log).read_text(errors="replace").splitlines()[-30:]))

    def has_image(self, name):
        return run([*self.command, "image", "inspect", name], check=False).returncode == 0

    def prepare_images(self, log):
        """The images of others: stand-ins, where there is only podman. What is there already stays. Returns what was
        made."""
        if not self.lab:
            return []  # Compose gets them
        made = []
        if not self.has_image(BASE):
            run([self.lab, "base", BASE, "trixie"], timeout=1800)
            made.append(BASE)
        for name, folder in STAND_INS.items():
            if not self.has_image(name):
                self.build(name, TOP / "tests" / "container" / "stand-ins" / folder, log)
                made.append(name)
        return made

    # ---- containers of a stack

    def containers(self, project, service=None, everything=False):
        """Ids, oldest first."""
        filters = ["--filter", f"label=com.docker.compose.project={project}"]
        if service:
            filters += ["--filter", f"label=com.docker.compose.service={service}"]
        ids = self("ps", "-q", "--no-trunc", *(["-a"] if everything else []), *filters).split()
        return sorted(ids, key=lambda i: self.inspect(i)["Created"])

    def inspect(self, container):
        return json.loads(self("inspect", container))[0]

    def healthy(self, container):
        """Runs the health check that the container has. Docker does so by itself; podman wants to be asked."""
        if self.lab:
            return run([*self.command, "healthcheck", "run", container], check=False).returncode == 0
        return self.inspect(container)["State"].get("Health", {}).get("Status") == "healthy"

    def remove_stack(self, project):
        """Everything that carries the project's label, whatever state it is in."""
        label = ["--filter", f"label=com.docker.compose.project={project}"]
        for container in self.containers(project, everything=True):
            run([*self.command, "rm", "-f", "-v", container], check=False, timeout=120)
        if self.lab:
            run([*self.command, "pod", "rm", "-f", f"pod_{project}"], check=False)
        for kind in ("volume", "network"):
            for name in run([*self.command, kind, "ls", "-q", *label], check=False).stdout.split():
                run([*self.command, kind, "rm", name], check=False)
        run([*self.command, "network", "rm", f"{project}_default"], check=False)

    def volumes(self, project):
        """Of its containers, those without a name too."""
        return {mount["Name"] for container in self.containers(project, everything=True)
                for mount in self.inspect(container)["Mounts"] if mount.get("Type") == "volume"}

    def leftovers(self, project):
        label = ["--filter", f"label=com.docker.compose.project={project}"]
        left = self.containers(project, everything=True)
        for kind in ("volume", "network"):
            left += self(kind, "ls", "-q", *label).split()
        return left


def explain(reason):
    print(f"skipped: {reason}", file=sys.stderr)
    sys.exit(77)
