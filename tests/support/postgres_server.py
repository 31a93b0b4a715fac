# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL server from Debian's package in a temporary folder, with fsync on: to be killed and started again."""
import contextlib
import glob
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time


def programs():
    """The folder of the newest PostgreSQL's programs, or None where there is none that can be run."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        return None
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")  # it does not run as root
        except KeyError:
            return None
    return pathlib.Path(found[-1]).parent


class PostgresServer:
    """A context manager. The server ends with this process however that ends. It listens on a Unix socket, and with `tcp`
    on a port of loopback, which `url` then names."""

    def __init__(self, tcp=False):
        self.programs = programs()
        self._tcp, self.port = tcp, None
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        self.folder, self.process, self._databases = None, None, 0

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quant-pg."))
        if self._as:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--pgdata",
                  self.folder / "data")
        if self._tcp:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database="postgres"):
        if self._tcp:
            return f"postgres://postgres@127.0.0.1:{self.port}/{database}"
        return f"postgres://postgres@/{database}?host={self.folder}"

    def new_database(self):
        """The URL of one that nobody has used."""
        self._databases += 1
        name = f"round{self._databases}"
        self._run("createdb", "--maintenance-db", self.url(), name)
        return self.url(name)

    def start(self, timeout=60):
        """Until it answers. After a kill the processes that the old server left hold its memory for a moment, and it ends
        at once: then again."""
        deadline = time.monotonic() + timeout
        while True:
            if self.process is None or self.process.poll() is not None:
                listen = ["-c", f"listen_addresses={'127.0.0.1' if self._tcp else ''}"]
                if self._tcp:
                    listen += ["-p", str(self.port)]
                with open(self.folder / "postgres.log", "ab") as log:
                    self.process = subprocess.Popen(
                        [*self._as, "setpriv", "--pdeathsig", "QUIT", self.programs / "postgres", "-D", self.folder / "data",
                         "-k", self.folder, *listen, "-c", "fsync=on", "-c", "shared_buffers=32MB"],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env={**os.environ, "LC_ALL": "C"})
            ready = subprocess.run([self.programs / "pg_isready", "-q", "-d", self.url()], check=False)
            if ready.returncode == 0 and self.process.poll() is None:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL does not start; its log:\n{(self.folder / 'postgres.log').read_text()[-3000:]}")
            time.sleep(0.02)

    def kill(self):
        """kill -9 of the postmaster; its other processes notice and end."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()

    def backends(self):
        """Pids of the processes of the server, the postmaster left out."""
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True,
                                check=False)
        return [int(pid) for pid in listed.stdout.split()]

    def sessions(self):
        """Pids of those that serve a connection."""
        listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True,
                                check=False)
        return [int(line.split()[0]) for line in listed.stdout.splitlines() if "postgres: postgres " in line]

    def pause(self):
        """SIGSTOP of every process: connections stay and nobody answers."""
        for pid in [self.process.pid, *self.backends()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self):
        for pid in [*self.backends(), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _run(self, name, *args):
        done = subprocess.run([*self._as, self.programs / name, *args], capture_output=True, cwd="/", check=False,
                              env={**os.environ, "LC_ALL": "C"})
        if done.returncode != 0:
            raise AssertionError(f"{name}: exit {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
