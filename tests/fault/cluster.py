# SPDX-License-Identifier: Apache-2.0
"""A service to be broken: quantd with its data on a small disk of its own, workers and clients behind proxies, clocks
that can be set. What cannot be done on this machine is in Cluster.without, with the reason."""
import contextlib
import glob
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

from proxy import Proxy
from service import Process, Service, program

HEARTBEAT = 0.25          # seconds; a lease is lost after three
DISK_BYTES = 192 << 20    # of the data folder
_FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class FakeClock:
    """The wall clock of one process, through libfaketime: set(seconds) shifts it, within a second. The monotonic clock
    goes on, as it does when a machine's clock is set."""

    def __init__(self, file):
        self._file = pathlib.Path(file)
        self.set(0)

    def set(self, seconds):
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)

    def environment(self):
        return {"LD_PRELOAD": glob.glob(_FAKETIME)[0], "FAKETIME_TIMESTAMP_FILE": str(self._file),
                "FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    @staticmethod
    def reason_missing():
        return None if glob.glob(_FAKETIME) else "libfaketime is not installed"


class Cluster(Service):
    """A Service whose quantd and workers are started again by the one who killed them. `store`: as quantd's --store; its
    `postmaster` is one more process to break, where it is given (PostgresServer), and then `servers` quantd use it, with
    one folder of blobs; clients and workers are connected to any of them."""

    def __init__(self, seed, workers=2, store=None, postmaster=None, servers=1):
        flags = ["--heartbeat", f"{int(HEARTBEAT * 1000)}ms", "--reserve", "1MiB"]
        if store:
            flags += ["--store", store]
        super().__init__(workers=workers, quantd_flags=flags, worker_flags=["--threads", "1"])
        self._seed, self.postmaster, self._servers = seed, postmaster, servers
        self.others = []  # quantd beside the first
        self.without, self.crashes = {}, []
        self.proxies, self.clocks, self._mounted = {}, {}, False
        if FakeClock.reason_missing():
            self.without["clock"] = FakeClock.reason_missing()

    # ---- start and stop

    def start_quantd(self, env=None):
        if self.server is None:
            self._mount_disk()
            if self._servers > 1:
                self._quantd_flags += ["--blobs", self.folder / "data" / "shared"]
        super().start_quantd(env or self._clock_environment("quantd"))
        while len(self.others) < self._servers - 1:
            self.others.append(self._start_other(len(self.others) + 2, "127.0.0.1:0"))
        if "client" not in self.proxies:
            self._add_proxy("client")
        return self.quantd

    def _start_other(self, number, listen):
        other = Process([program("quantd"), "--listen", listen, "--data", self.folder / f"data-{number}",
                         *self._quantd_flags], self.folder / f"quantd-{number}.log",
                        self._clock_environment(f"quantd-{number}"))
        other.number, other.address = number, other.wait_line("quantd listening on ")
        return other

    def servers(self):
        """Every quantd, the first one first."""
        return [self.quantd, *self.others]

    def restart_server(self, server):
        """Takes the place of a quantd that was killed, with its data and its address."""
        if server is self.quantd:
            return self.start_quantd()
        at = self.others.index(server)
        self.others[at] = self._start_other(server.number, server.address)
        return self.others[at]

    def start_worker(self, flags=(), cache=None, wait=True, server=None, env=None, name=None):
        name = name or f"worker-{len(self.workers) + 1}"
        if name not in self.proxies:
            self._add_proxy(name)
        worker = super().start_worker(["--name", name, *flags], cache or self.folder / f"cache-of-{name}", wait,
                                      server or self.proxies[name].address, env or self._clock_environment(name))
        worker.name = name
        return worker

    def restart_worker(self, worker):
        """Takes the place of a worker that was killed, with its cache."""
        self.workers.remove(worker)
        return self.start_worker(name=worker.name, wait=False)

    def stop(self):
        for proxy in self.proxies.values():
            proxy.heal()
        folder = self.folder
        if folder and self._mounted:
            for p in [*self.workers, *self.servers()]:
                if p is not None:
                    p.kill()
            subprocess.run(["umount", "-l", folder / "data"], check=False)
        for other in self.others:
            other.kill()
        super().stop()
        for proxy in self.proxies.values():
            proxy.close()

    def _add_proxy(self, name):
        addresses = [a.rsplit(":", 1) for a in [self.server, *(other.address for other in self.others)]]
        self.proxies[name] = Proxy([(host, int(port)) for host, port in addresses], seed=f"{self._seed}/{name}")

    def _clock_environment(self, name):
        if "clock" in self.without:
            return None
        if name not in self.clocks:
            self.clocks[name] = FakeClock(self.folder / f"clock-of-{name}")
        return {**os.environ, **self.clocks[name].environment()}

    def _mount_disk(self):
        data = self.folder / "data"
        data.mkdir(mode=0o700)
        if os.geteuid() != 0 or not os.environ.get("QUANT_DEV_INSIDE"):
            self.without["disk"] = "mounting a small disk takes root inside ./dev"
            return
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", data], capture_output=True)
        self._mounted = done.returncode == 0
        if not self._mounted:
            self.without["disk"] = done.stderr.decode(errors="replace").strip()

    # ---- the disk

    def fill_disk(self, leave=0):
        """Takes all room on the data's disk but `leave` bytes."""
        with open(self.folder / "data" / "filler", "ab") as file:
            free = shutil.disk_usage(self.folder / "data").free - leave
            for size in (free, free - (64 << 10), free - (1 << 20)):
                with contextlib.suppress(OSError, ValueError):
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
                    return

    def free_disk(self):
        (self.folder / "data" / "filler").unlink(missing_ok=True)

    # ---- what is there

    def note_crashes(self):
        """Processes that ended though nobody killed them. Whoever kills one does so with Process.kill, which marks it."""
        for process in [*self.servers(), *self.workers]:
            if process is not None and not process.alive() and not getattr(process, "killed", False):
                process.killed = True
                self.crashes.append(f"{os.path.basename(process.argv[0])} ended with {process.popen.returncode}")

    def answers(self, server=None):
        """Whether a quantd answers a call, on the direct way; without `server`: whether all do."""
        if server is None:
            return all(self.answers(s) for s in self.servers())
        address = self.server if server is self.quantd else server.address
        return server.alive() and self.quantctl("job", "list", "--limit", "1", "--output", "json", "--server",
                                                address).code == 0

    def bad_blobs(self):
        """Names of blob files that hash to something else. With blobs in a folder only."""
        bad = []
        data = self.folder / "data"
        for path in (data / "shared" / "blobs" if self._servers > 1 else data / "blobs").rglob("*"):
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
                bad.append(str(path))
        return bad


def kill(process):
    """kill -9, as a fault."""
    process.killed = True
    process.kill()


def watch_history(address, job_id, timeout):
    """(states, whether the watch ended by itself) of a job, by tests/fault/watch_history.cc."""
    done = subprocess.Popen([program("watch_history"), address, job_id], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        out, _ = done.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        done.kill()
        out, _ = done.communicate()
    return out.decode(), done.returncode == 0


def pause(pid, seconds):
    """SIGSTOP, and SIGCONT after a time; a process that is gone by then is none of our business."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

