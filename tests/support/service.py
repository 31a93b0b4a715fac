# SPDX-License-Identifier: Apache-2.0
"""The real service for tests: quantd and workers on loopback in a temporary folder, driven through quantctl.

  with Service(workers=1) as service:
      model = service.ok("model", "upload", path)["id"]

Programs come from $QUANT_BIN (set by CTest), else from the PATH. Every process started here ends with the Service, also
when the test is killed: each asks the kernel to be killed with the thread that started it, so start processes from the
main thread only.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = TOP / "examples" / "shapes"
ONNXRUNTIME_RUN = TOP / "bench" / "peers" / "onnxruntime_run.py"

# No test waits this long when all is well: it only ends a wait for what never comes.
PATIENCE = 120.0
SETTLED = ("SUCCEEDED", "FAILED", "CANCELLED", "DEAD")


def program(name):
    """Path of one of our programs."""
    folder = os.environ.get("QUANT_BIN")
    path = os.path.join(folder, name) if folder else shutil.which(name)
    if not path or not os.path.exists(path):
        raise FileNotFoundError(f"{name} is not built (QUANT_BIN={folder}): ./dev build dev -- {name}")
    return path


def shared_data():
    """The folder with real models and data, or None where this machine has none."""
    shared = os.environ.get("QUANT_SHARED")
    data = pathlib.Path(shared) / "data" if shared else None
    return data if data and data.is_dir() else None


def wait_until(condition, what, timeout=PATIENCE, interval=0.02):
    """Returns condition()'s first true value; AssertionError naming `what` when none comes in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:.0f} s still waiting: {what}")
        time.sleep(interval)


def file_digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class Result:
    """What a run of quantctl left: exit code, stdout, stderr."""

    def __init__(self, args, code, out, err):
        self.args, self.code, self.out, self.err = args, code, out, err

    @property
    def json(self):
        try:
            return json.loads(self.out)
        except ValueError as error:
            raise AssertionError(f"stdout is not one JSON document ({error}): {self}") from None

    def __str__(self):
        return f"quantctl {' '.join(map(str, self.args))}\nexit {self.code}\nstdout: {self.out}\nstderr: {self.err}"


class Process:
    """A program with its stdout as lines to wait for and its stderr in a file."""

    def __init__(self, argv, log, env=None):
        self.argv = [str(a) for a in argv]
        self.log = pathlib.Path(log)
        self._lines, self._changed = [], threading.Condition()
        with open(self.log, "ab") as err:
            # setpriv becomes the program: the pid is the program's.
            self.popen = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.argv], stdin=subprocess.DEVNULL,
                                          stdout=subprocess.PIPE, stderr=err, env=env)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.popen.stdout:
            with self._changed:
                self._lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._lines.append(None)  # the end
            self._changed.notify_all()

    @property
    def pid(self):
        return self.popen.pid

    def lines(self):
        with self._changed:
            return [line for line in self._lines if line is not None]

    def wait_line(self, prefix, timeout=PATIENCE):
        """What follows `prefix` in the first line of stdout that begins with it."""
        def found():
            return next((s[len(prefix):] for s in self._lines if s is not None and s.startswith(prefix)), None)
        with self._changed:
            self._changed.wait_for(lambda: found() is not None or None in self._lines, timeout)
            text = found()
        if text is None:
            raise AssertionError(f"{self.argv[0]} (exit {self.popen.poll()}) did not print '{prefix}'; its log:\n"
                                 + tail(self.log))
        return text

    def send(self, number):
        self.popen.send_signal(number)

    def wait(self, timeout=PATIENCE):
        """Exit status; negative for a signal."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv[0]} has not ended after {timeout:.0f} s; its log:\n{tail(self.log)}") from None

    def kill(self):
        """kill -9 and reap."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join(timeout=10)
        self.popen.stdout.close()

    def alive(self):
        return self.popen.poll() is None

    def children(self):
        """Pids of its living child processes."""
        return [pid for pid, parent, state in _processes() if parent == self.pid and state not in "ZX"]


def _processes():
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = pathlib.Path("/proc", entry, "stat").read_text()
                fields = stat[stat.rindex(")") + 2:].split()  # the name may hold blanks and brackets
                yield int(entry), int(fields[1]), fields[0]


def tail(path, lines=40):
    try:
        text = pathlib.Path(path).read_text(errors="replace").splitlines()
    except OSError as error:
        return str(error)
    return "\n".join(text[-lines:])


class Service:
    """quantd with its data folder, and workers with theirs. A context manager; also start() and stop()."""

    def __init__(self, workers=1, quantd_flags=(), worker_flags=()):
        self._count = workers
        self._quantd_flags, self._worker_flags = list(quantd_flags), list(worker_flags)
        self.folder = self.quantd = self.server = self.metrics_address = None
        self.workers, self._started = [], 0

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        if kind is not None and not issubclass(kind, unittest.SkipTest):
            self.print_logs()
        self.stop()

    def start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quant-service."))
        try:
            self.start_quantd()
            for _ in range(self._count):
                self.start_worker()
        except BaseException:
            self.print_logs()
            self.stop()
            raise
        return self

    def stop(self):
        """Ends every process, by its own pid, and removes the folder."""
        processes = [p for p in [*self.workers, self.quantd] if p is not None]
        for p in processes:
            if p.alive():
                p.send(signal.SIGCONT)
                p.send(signal.SIGTERM)
        deadline = time.monotonic() + 5
        for p in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.popen.wait(max(0.1, deadline - time.monotonic()))
            p.kill()
        self.workers, self.quantd = [], None
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start_quantd(self, env=None):
        """Starts quantd; a second time on the address and data of the first. `env`: all of its environment."""
        listen, metrics = self.server or "127.0.0.1:0", self.metrics_address or "127.0.0.1:0"
        self.quantd = Process([program("quantd"), "--listen", listen, "--data", self.folder / "data", "--metrics", metrics,
                               *self._quantd_flags], self.folder / "quantd.log", env)
        self.server = self.quantd.wait_line("quantd listening on ")
        self.metrics_address = self.quantd.wait_line("quantd metrics on ")
        return self.quantd

    def start_worker(self, flags=(), cache=None, wait=True, server=None, env=None):
        """Starts one more worker, with a cache folder of its own unless one is named. `server`: another way there."""
        self._started += 1
        worker = Process([program("quant-worker"), "--server", server or self.server, "--cache",
                          cache or self.folder / f"cache-{self._started}", *self._worker_flags, *flags],
                         self.folder / f"worker-{self._started}.log", env)
        self.workers.append(worker)
        if wait:
            worker.id = worker.wait_line("quant-worker ").removesuffix(" ready")
        return worker

    def print_logs(self):
        if self.folder:
            for log in sorted(self.folder.glob("*.log")):
                print(f"---- end of {log.name}\n{tail(log)}", file=sys.stderr, flush=True)

    # ---- quantctl

    def environment(self):
        return {**os.environ, "QUANT_SERVER": self.server}

    def quantctl(self, *args, timeout=PATIENCE):
        """Runs quantctl to its end, whatever that is."""
        try:
            done = subprocess.run([program("quantctl"), *map(str, args)], env=self.environment(), timeout=timeout,
                                  stdin=subprocess.DEVNULL, capture_output=True)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"quantctl {' '.join(map(str, args))} has not ended after {timeout:.0f} s; stderr: "
                                 f"{(error.stderr or b'').decode(errors='replace')}") from None
        return Result(args, done.returncode, done.stdout.decode("utf-8", "replace"),
                      done.stderr.decode("utf-8", "replace"))

    def ok(self, *args, timeout=PATIENCE):
        """Runs quantctl, which must succeed, and returns its JSON document."""
        result = self.quantctl(*args, "--output", "json", timeout=timeout)
        if result.code != 0:
            raise AssertionError(f"wanted success: {result}")
        return result.json

    def upload(self, kind, path, *flags):
        """Uploads a model or dataset and returns its id."""
        return self.ok(kind, "upload", path, *flags)["id"]

    def submit(self, *flags, cache=False):
        """Submits a job and returns its id at once. Without `cache` it runs, whatever was run before."""
        return self.ok("job", "submit", *flags, *([] if cache else ["--no-cache"]))["id"]

    def job(self, job_id):
        return self.ok("job", "show", job_id)

    def report(self, job_id):
        return self.ok("job", "report", job_id, "--format", "json")

    def wait_job(self, job_id, states=SETTLED, timeout=PATIENCE):
        """The job once it is in one of `states`; fails at once when it settles in another."""
        states = (states,) if isinstance(states, str) else states

        def settled():
            job = self.job(job_id)
            if job["state"] not in states and job["state"] in SETTLED:
                raise AssertionError(f"job {job_id} is {job['state']}, wanted {states}: {json.dumps(job.get('error'))}")
            return job if job["state"] in states else None
        return wait_until(settled, f"job {job_id} in {states}", timeout, interval=0.1)

    def run_job(self, *flags, state="SUCCEEDED", timeout=PATIENCE):
        """Submits, waits for the end, and returns the job."""
        job_id = self.submit(*flags)
        watched = self.quantctl("job", "watch", job_id, "--output", "json", timeout=timeout)
        job = self.job(job_id)
        if job["state"] != state:
            raise AssertionError(f"wanted {state}: {json.dumps(job, indent=1)}\n{watched}")
        return job

    def download(self, model_id, name):
        """Downloads a model to a folder of its own and returns {path: digest} of its files."""
        folder = self.folder / name
        self.ok("model", "download", model_id, folder)
        return {str(p.relative_to(folder)): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}

    # ---- what happens outside of quantctl

    def http(self, path):
        with urllib.request.urlopen(f"http://{self.metrics_address}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()

    def metrics(self):
        """{'name{label="value",…}': value} of /metrics."""
        samples = {}
        for line in self.http("/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
        return samples

    def child(self, worker=None, timeout=PATIENCE):
        """Pid of the process in which a worker runs its job, once there is one."""
        worker = worker or self.workers[0]
        return wait_until(worker.children, f"a child of worker {worker.pid}", timeout, interval=0.005)[0]


def gone(pid):
    """Whether the process is no more (a zombie counts as gone)."""
    return all(p != pid or state in "ZX" for p, _, state in _processes())


def onnxruntime(*args, timeout=600):
    """Runs bench/peers/onnxruntime_run.py in a process of its own and returns its JSON."""
    done = subprocess.run([sys.executable, str(ONNXRUNTIME_RUN), *map(str, args)], capture_output=True, timeout=timeout,
                          check=False)
    if done.returncode != 0:
        raise AssertionError(f"onnxruntime_run.py {' '.join(map(str, args))}: exit {done.returncode}: "
                             f"{done.stderr.decode(errors='replace')[-2000:]}")
    return json.loads(done.stdout)


class ServiceTestCase(unittest.TestCase):
    """Tests with a service, whose logs are printed when a test fails."""

    service = None

    @classmethod
    def share_service(cls, **options):
        """In setUpClass: one service for all tests of the class."""
        cls.service = Service(**options).start()
        cls.addClassCleanup(cls.service.stop)
        return cls.service

    def own_service(self, **options):
        """A service of this test's own."""
        self.service = Service(**options).start()
        self.addCleanup(self._stop_own_service)
        return self.service

    def _stop_own_service(self):
        if self._failures() > self._failures_before:
            self.service.print_logs()
        self.service.stop()

    def _failures(self):
        return len(self._result.failures) + len(self._result.errors) if self._result is not None else 0

    def run(self, result=None):
        self._result = result
        self._failures_before = self._failures()
        outcome = super().run(result)
        if self._failures() > self._failures_before and type(self).service is not None:
            type(self).service.print_logs()
        return outcome

    def folder(self):
        """A fresh folder that goes with the test."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="quant-test."))
        self.addCleanup(shutil.rmtree, folder, True)
        return folder

    def assert_refused(self, result, *words, codes=(1, 2)):
        """quantctl ended with a clear error: exit status 1 or 2, one message that has all of `words`."""
        self.assertIn(result.code, codes, str(result))
        text = (result.err + result.out).lower()
        for word in words:
            self.assertIn(word.lower(), text, str(result))
        for trace in ("traceback", "terminate called", "check failed", "addresssanitizer", "segmentation"):
            self.assertNotIn(trace, text, str(result))


def main(needs_data=False):
    """unittest.main that ends with 77 (skipped for CTest) where the tests need data that is not there."""
    if needs_data and shared_data() is None:
        print("skipped: these tests need real models and data in $QUANT_SHARED/data")
        sys.exit(77)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    unittest.main(verbosity=2)
