# SPDX-License-Identifier: Apache-2.0
"""Clients: each a thread that goes on calling the service through quantctl and writes down what it was told."""
import json
import pathlib
import random
import shutil
import subprocess
import threading
import time
import uuid

from cluster import watch_history
from history import FAIL, OK, UNKNOWN
from service import EXAMPLE, Result, file_digest, program

PATIENCE = 8.0      # seconds after which a client gives a call up
UNFINISHED = 10     # jobs that clients keep in the queue at most
TIMED = ("--latency-runs", "150")  # makes a job last a second or more, so that faults hit it

# name -> flags of a recipe; MODEL, CALIBRATION and EVALUATION stand for ids. The result's bytes depend on these alone.
RECIPES = {
    "dynamic": ("--method", "dynamic", "--latency-runs", "-1", "--evaluation-samples", "8"),
    "static": ("--method", "static", "--calibration", "CALIBRATION", "--calibration-samples", "16", "--latency-runs", "-1",
               "--evaluation-samples", "8"),
    "evaluated": ("--method", "static", "--calibration", "CALIBRATION", "--evaluation", "EVALUATION", "--observer",
                  "percentile", "--evaluation-samples", "64", "--latency-runs", "-1"),
    "long": ("--method", "static", "--calibration", "CALIBRATION", "--evaluation", "EVALUATION", "--evaluation-samples",
             "64", *TIMED),
}
INPUTS = {"MODEL": ("model", EXAMPLE / "model.onnx"), "CALIBRATION": ("dataset", EXAMPLE / "calibration"),
          "EVALUATION": ("dataset", EXAMPLE / "evaluation")}


def recipe_flags(recipe, ids, no_cache):
    """`no_cache`: what makes a job run although the same one ran before; empty where the service keeps no results."""
    return ["--model", ids["MODEL"], *(ids.get(flag, flag) for flag in RECIPES[recipe]), *no_cache]


def upload_inputs(service):
    return {name: service.upload(kind, path) for name, (kind, path) in INPUTS.items()}


def files_under(folder):
    """{path: digest} of the files that a client sent or was given."""
    if folder.is_file():
        return {folder.name: file_digest(folder)}
    return {str(p.relative_to(folder)): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def make_model(path, random):
    """A valid model like no other: the example with a producer_version (field 3 of ModelProto) of its own."""
    text = b"%016x" % random.getrandbits(64)
    path.write_bytes((EXAMPLE / "model.onnx").read_bytes() + b"\x1a" + bytes([len(text)]) + text)


def make_dataset(path, random):
    """A .npy file of random bytes, some large enough to be cut in the middle."""
    size = random.choice([100, 5000, 300_000, 3_000_000])
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % size
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + random.randbytes(size))


class Client(threading.Thread):
    """Calls until stop() is called. What it does next comes from its seed alone."""

    def __init__(self, name, seed, cluster, history, ids, no_cache):
        super().__init__(name=name, daemon=True)
        self._random, self._address = random.Random(seed), cluster.proxies["client"].address
        self._folder = pathlib.Path(cluster.folder / name)
        self._folder.mkdir()
        self._history, self._ids, self._no_cache = history, ids, no_cache
        self._stop, self.error = threading.Event(), None
        self._jobs, self._succeeded, self._models, self._count = [], [], [], 0

    def stop(self):
        self._stop.set()

    def run(self):
        actions = {self._submit: 6, self._watch: 3, self._show: 3, self._upload: 2, self._cancel: 1, self._retry: 1,
                   self._download: 2}
        try:
            while not self._stop.is_set():
                self._random.choices(list(actions), list(actions.values()))[0]()
                self._stop.wait(self._random.uniform(0, 0.2))
        except BaseException as error:  # a broken test must not look like a quiet client
            self.error = error

    def _call(self, *args, timeout=PATIENCE):
        """(outcome, JSON or None, what went wrong)"""
        try:
            done = subprocess.run([program("quantctl"), "--server", self._address, "--output", "json", *map(str, args)],
                                  stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return UNKNOWN, None, f"no answer for {timeout} s"
        result = Result(args, done.returncode, done.stdout.decode(), done.stderr.decode("utf-8", "replace"))
        if done.returncode == 0:
            return OK, result.json, ""
        if done.returncode not in (1, 3):
            raise AssertionError(f"quantctl neither did it nor refused: {result}")
        # A refusal (1) may follow an attempt whose answer was lost.
        return (UNKNOWN if done.returncode == 3 else FAIL), None, result.err.strip()

    # ---- what a client does

    def _submit(self):
        unfinished = [j for j in self._jobs if not j["settled"]]
        if len(unfinished) >= UNFINISHED // 3:
            return self._show()
        recipe = self._random.choice(list(RECIPES))
        request = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        flags = recipe_flags(recipe, self._ids, self._no_cache) + ["--request-id", request, "--label", f"request={request}"]
        flags += ["--max-attempts", str(self._random.choice([3, 10, 10]))]
        # Repeated until it is acknowledged, and sometimes once more: the answer must be the same job.
        for _ in range(20):
            operation = self._history.invoke(self.name, "submit", request_id=request, recipe=recipe)
            outcome, job, note = self._call("job", "submit", *flags)
            self._history.complete(operation, outcome, job and job["id"], note)
            if outcome == OK:
                if all(j["id"] != job["id"] for j in self._jobs):
                    self._jobs.append({"id": job["id"], "settled": False})
                if self._random.random() < 0.8:
                    return None
            if self._stop.is_set():
                return None
            self._stop.wait(0.2)
        return None

    def _upload(self):
        what = self._random.choice(["model", "dataset", "dataset"])
        self._count += 1
        path = self._folder / (f"model-{self._count}.onnx" if what == "model" else f"data-{self._count}.npy")
        (make_model if what == "model" else make_dataset)(path, self._random)
        for _ in range(5):
            operation = self._history.invoke(self.name, "upload", what=what, files=files_under(path))
            outcome, made, note = self._call(what, "upload", path)
            self._history.complete(operation, outcome, made and made["id"], note)
            if outcome == OK or self._stop.is_set():
                break
        if outcome == OK and what == "model":
            self._models.append(made["id"])
        path.unlink()

    def _show(self):
        if not self._jobs:
            return
        job = self._random.choice([j for j in self._jobs if not j["settled"]] or self._jobs)
        operation = self._history.invoke(self.name, "show", job=job["id"])
        outcome, shown, note = self._call("job", "show", job["id"])
        self._history.complete(operation, outcome, shown, note)
        if outcome == OK:
            job["settled"] = shown["state"] in ("SUCCEEDED", "FAILED", "CANCELLED", "DEAD")
            if shown["state"] == "SUCCEEDED" and shown["id"] not in [j for j, _ in self._succeeded]:
                self._succeeded.append((shown["id"], shown["result_model_id"]))

    def _watch(self):
        unsettled = [j for j in self._jobs if not j["settled"]]
        if not unsettled:
            return
        job = self._random.choice(unsettled)["id"]
        operation = self._history.invoke(self.name, "watch", job=job)
        lines, ended = watch_history(self._address, job, PATIENCE)
        self._history.complete(operation, OK if ended else UNKNOWN, parse_states(lines))

    def _cancel(self):
        if not self._jobs or self._random.random() < 0.5:
            return
        job = self._random.choice(self._jobs[-3:])
        operation = self._history.invoke(self.name, "cancel", job=job["id"])
        outcome, shown, note = self._call("job", "cancel", job["id"])
        self._history.complete(operation, outcome, shown, note)

    def _retry(self):
        settled = [j for j in self._jobs if j["settled"]]
        if not settled:
            return
        job = self._random.choice(settled)
        operation = self._history.invoke(self.name, "retry", job=job["id"])
        outcome, shown, note = self._call("job", "retry", job["id"])
        self._history.complete(operation, outcome, shown, note)
        if outcome != FAIL:
            job["settled"] = False

    def _download(self):
        of_job, model = self._random.choice(self._succeeded + [(None, m) for m in self._models] or [(None, None)])
        if model is None:
            return
        folder = self._folder / "download"
        shutil.rmtree(folder, ignore_errors=True)
        operation = self._history.invoke(self.name, "download", model=model, job=of_job)
        outcome, _, note = self._call("model", "download", model, folder)
        self._history.complete(operation, outcome, files_under(folder) if outcome == OK else None, note)


def parse_states(lines):
    """watch_history's output; the last line may be torn by a kill."""
    return [json.loads(line) for line in lines.split("\n")[:-1]]


def wait_for_jobs(cluster, timeout):
    """Waits until no job is unfinished; returns whether that came to be."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        jobs = cluster.ok("job", "list", "--limit", "0")["items"]
        if all(j["state"] in ("SUCCEEDED", "FAILED", "CANCELLED", "DEAD") for j in jobs):
            return True
        time.sleep(0.2)
    return False
