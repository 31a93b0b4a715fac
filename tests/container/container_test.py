#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The image and the Compose stack for real: ./dev container-test [--skip-build] [--image NAME] [one|fleet]

Builds the image, brings deploy/'s stack up with tokens and TLS, runs a job, scales to 3 workers, kills one in the middle of
a job, asks Prometheus, and takes it all down; then the same stack on PostgreSQL and S3. Prints a transcript with times.

Runs on the host, outside of ./dev's environment. Where no Docker engine answers it does with container-lab (podman), and
images that only a registry has are stood in for by small ones of Debian packages; Grafana is left out there. Containers,
volumes and networks are removed however it ends; images stay, for the next run. Exit status 77: it cannot run here, and
says why.
"""
import argparse
import json
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from engine import TOP, Engine, Missing, explain, run  # noqa: E402
from stack import Stack, wait_until  # noqa: E402

STARTED = time.monotonic()
JOB = ("--kind", "quantize", "--method", "static")


def say(text):
    print(f"{time.monotonic() - STARTED:7.1f} s  {text}", flush=True)


class Step:
    """A line of the transcript, with the time that it took."""

    def __init__(self, what):
        self.what, self.details = what, []

    def __enter__(self):
        self.begun = time.monotonic()
        return self

    def __exit__(self, kind, *_):
        say(f"{'FAILED  ' if kind else 'ok      '}{self.what} ({time.monotonic() - self.begun:.1f} s)")
        for line in self.details:
            print(" " * 19 + line, flush=True)

    def note(self, text):
        self.details.append(text)


def check(condition, what):
    if not condition:
        raise AssertionError(what)


# ---------------------------------------------------------------- the image


def build_image(engine, image, work):
    with Step(f"{image} is built") as step:
        revision = run(["git", "-C", TOP, "rev-parse", "--short=12", "HEAD"], check=False).stdout.strip()
        arguments = ["--build-arg", f"QUANT_JOBS={os.environ.get('QUANT_JOBS', '')}", "--build-arg", f"REVISION={revision}"]
        engine.build(image, TOP, work / "build.log", *arguments)
        step.note(f"revision {revision}")


def check_image(engine, image):
    with Step("the image holds what the programs need, and nothing more") as step:
        facts = json.loads(engine("image", "inspect", image))[0]
        config = facts["Config"]
        check(config["User"] == "10001:10001", f"its user is {config['User']!r}")
        check(config["Labels"].get("org.opencontainers.image.title") == "quantd", f"its labels: {config['Labels']}")
        check("quantd" in str(config.get("Healthcheck") or facts.get("HealthCheck") or facts.get("Healthcheck")),
              "it has no health check")
        def inside(*args):
            return engine("run", "--rm", "--network", "none", "--read-only", image, *args)
        for program in ("quantd", "quant-worker", "quantctl"):
            step.note(inside(program, "--version"))
        check(inside("id", "-u") == "10001", "it does not run as 10001")
        present = inside("sh", "-c", "for p in g++ cmake ninja git python3 curl; do command -v $p || true; done")
        check(present == "", f"it has what only a build or a test needs: {present}")
        refused = run([*engine.command, "run", "--rm", "--network", "none", image, "quantd", "probe"], check=False)
        check(refused.returncode == 1 and "Connection refused" in refused.stderr, f"probe of nobody: {refused}")
        packages = inside("sh", "-c", "dpkg-query -W | wc -l")
        step.note(f"{facts['Size'] / 2**20:.0f} MiB with its base, {packages} Debian packages, user 10001")


# ---------------------------------------------------------------- what both profiles do


def bring_up(stack):
    with Step("deploy/stack up: .env, secrets, containers") as step:
        stack.up()
        step.note("services: " + ", ".join(stack.services))
    with Step("every health check passes"):
        stack.wait_healthy()
    with Step("tokens and TLS are on"):
        names = stack.tls_names()
        check({"quantd", "localhost"} <= set(names), f"the certificate names {names}")
        without = stack.quantctl("model", "list", token="", check=False)
        check(without.returncode != 0 and "token" in without.stderr.lower(), f"without a token: {without}")
        worker = stack.quantctl("model", "list", token=stack.secret("worker-token"), check=False)
        check(worker.returncode != 0, "a worker's token lists models")


def run_a_job(stack):
    """Uploads the example and quantizes it; returns its ids."""
    with Step("quantctl uploads examples/shapes and runs a static INT8 job") as step:
        model = stack.ok("model", "upload", "/examples/shapes/model.onnx", "--name", "shapes")["id"]
        data = [stack.ok("dataset", "upload", f"/examples/shapes/{part}")["id"] for part in ("calibration", "evaluation")]
        arguments = [*JOB, "--model", model, "--calibration", data[0], "--evaluation", data[1]]
        begun = time.monotonic()
        job = stack.ok("job", "submit", *arguments, "--watch")
        check(job["state"] == "SUCCEEDED", f"the job is {job}")
        took = time.monotonic() - begun
        report = stack.ok("job", "report", job["id"])
        top1 = next(m for m in report["metrics"] if m["name"] == "top1")
        size = report["size"]
        check(int(size["quantized_bytes"]) < 0.5 * int(size["original_bytes"]), f"sizes: {size}")
        step.note(f"{job['id']} took {took:.1f} s: top1 {top1['original']:.2f} -> {top1['quantized']:.2f} %, "
                  f"{size['original_bytes']} -> {size['quantized_bytes']} bytes")
    return arguments


def take_down(stack):
    with Step("deploy/stack down leaves nothing"):
        volumes = stack.engine.volumes(stack.project)
        stack.down()
        if stack.engine.lab:  # podman-compose keeps networks, and volumes without a name
            stack.engine.remove_stack(stack.project)
            for volume in volumes & set(stack.engine("volume", "ls", "-q").split()):
                stack.engine("volume", "rm", volume)
        left = volumes & set(stack.engine("volume", "ls", "-q").split())
        check(not left, f"volumes left behind: {left}")
        left = stack.engine.leftovers(stack.project)
        check(not left, f"left behind: {left}")


# ---------------------------------------------------------------- one machine


def live_workers(stack):
    return [w for w in stack.ok("worker", "list")["items"] if not w.get("lost") and not w.get("draining")]


def scale_out(stack, count):
    with Step(f"deploy/stack scale {count}") as step:
        stack.stack("scale", str(count))
        stack.wait_healthy({"worker": count})
        wait_until(lambda: len(live_workers(stack)) == count, f"{count} workers at quantd")
        step.note("workers: " + ", ".join(w.get("id", w.get("info", {}).get("id", "?")) for w in live_workers(stack)))


def kill_a_worker(stack, arguments):
    """kill -9 of a worker's container in the middle of a job: another worker does it."""
    with Step("a worker is killed in the middle of a job, and no job is lost") as step:
        by_hostname = {stack.engine.inspect(c)["Config"]["Hostname"]: c for c in stack.containers("worker")}
        jobs = []

        def submit():  # measured for longer than it takes to see where they run
            jobs.extend(stack.ok("job", "submit", *arguments, "--latency-runs", "10000", "--no-cache")["id"] for _ in range(6))

        def victim():
            running = [(job["id"], host) for job in stack.ok("job", "list", "--state", "running")["items"]
                       for host in by_hostname if job.get("worker_id", "").startswith(host)]
            return running[0] if running else submit()

        while True:
            job_id, host = wait_until(victim, "a job that runs on a worker", interval=0.05)
            stack.engine("kill", "-s", "KILL", by_hostname.pop(host))
            killed = time.monotonic()
            done = wait_until(lambda: (j := stack.ok("job", "show", job_id))["state"] == "SUCCEEDED" and j,
                              f"{job_id} succeeds elsewhere")
            if int(done["attempt"]) >= 2:
                break
            check(by_hostname, "every worker was killed, and each had just finished its job")
        step.note(f"{job_id} ran on {host}, was killed with it, and succeeded {time.monotonic() - killed:.1f} s later in "
                  f"attempt {done['attempt']} on {done['worker_id']}")
        for other in jobs:
            wait_until(lambda j=other: stack.ok("job", "show", j)["state"] == "SUCCEEDED", f"{other} succeeds")
        step.note(f"all {len(jobs)} jobs succeeded")
    return len(jobs)


def read_prometheus(stack, workers, jobs):
    with Step("Prometheus: every target is up, and its numbers are those of the jobs") as step:
        def targets():
            found = stack.prometheus("/api/v1/targets", state="active")["activeTargets"]
            up = [t for t in found if t["health"] == "up"]
            mine = [t for t in up if t["labels"].get("instance", "").endswith(":9701")]
            return len(up) == len(found) and len(mine) == workers and found
        found = wait_until(targets, f"all targets up, {workers} of them workers")
        step.note("up: " + ", ".join(sorted(f"{t['labels']['job']} {t['labels']['instance']}" for t in found)))
        def counted():
            return stack.total('quant_jobs_finished_total{outcome="succeeded"}') >= jobs
        wait_until(counted, f"{jobs} finished jobs in Prometheus")
        for expression in ('sum(quant_jobs_finished_total{outcome="succeeded"})', 'quant_workers{state="up"}',
                           "sum by (cause) (quant_lease_expirations_total) > 0", "sum by (reason) (quant_job_retries_total) > 0"):
            step.note(f"{expression}: " + ", ".join(f"{k} {v:g}".strip() for k, v in stack.query(expression).items()))
        check(stack.total('quant_workers{state="up"}') == workers, f"quant_workers is not {workers}")
        check(stack.total("sum(quant_lease_expirations_total)") >= 1, "the lost lease was not counted")
        rules = stack.prometheus("/api/v1/rules")["groups"]
        bad = [r["name"] for g in rules for r in g["rules"] if r["health"] == "err"]
        check(not bad, f"rules that fail: {bad}")
        managers = stack.prometheus("/api/v1/alertmanagers")["activeAlertmanagers"]
        check(managers, "Prometheus knows no Alertmanager")
        step.note(f"{sum(len(g['rules']) for g in rules)} rules, none fails; Alertmanager {managers[0]['url']}")


def change_tokens(stack):
    with Step("deploy/stack token: a new token counts at once, a revoked one no more"):
        token = stack.stack("token", "add", "--name", "ann", "--tenant", "acme").stdout.strip()
        wait_until(lambda: stack.ok("model", "list", token=token)["items"] == [], "the new token counts")
        stack.stack("token", "revoke", "ann")
        def refused():
            return stack.quantctl("model", "list", token=token, check=False).returncode != 0
        wait_until(refused, "the revoked token does not count")


def stop_gently(stack):
    with Step("SIGTERM ends a worker and quantd with exit status 0"):
        for service in ("worker", "quantd"):
            container = stack.containers(service)[0]
            stack.engine("stop", "-t", "60", container)
            code = stack.engine.inspect(container)["State"]["ExitCode"]
            check(code == 0, f"{service} ended with {code}")
            stack.engine("start", container)
        stack.wait_healthy()


def one_machine(stack):
    say("---- one machine: SQLite and a volume")
    bring_up(stack)
    arguments = run_a_job(stack)
    scale_out(stack, 3)
    killed = kill_a_worker(stack, arguments)
    scale_out(stack, 3)
    read_prometheus(stack, 3, killed + 1)
    change_tokens(stack)
    stop_gently(stack)
    take_down(stack)


# ---------------------------------------------------------------- the fleet


def on_its_stores(stack):
    def psql(query):
        return stack.engine("exec", stack.containers("postgres")[0], "psql", "-U", "quantd", "-d", "quantd", "-At", "-c", query)
    with Step("the job is in PostgreSQL, its bytes are in S3") as step:
        tables = psql("SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'public'")
        check("job" in tables.split(), f"tables: {tables}")
        check(int(psql("SELECT count(*) FROM job")) == 1, "not one job in the database")
        objects = stack.engine("exec", stack.containers("s3")[0], "sh", "-c",
                               "find /srv/swift/devices -name '*.data' | wc -l")
        check(int(objects) > 0, "no object in S3")
        files = stack.engine("exec", stack.containers("quantd")[0], "sh", "-c", "ls /var/lib/quantd")
        check(".db" not in files and "blobs" not in files.split(), f"the data folder holds {files}")
        step.note(f"tables: {tables}; {objects} objects in S3; the data folder: {' '.join(files.split())}")


def kill_quantd(stack, arguments):
    with Step("kill -9 of quantd: started again, it has every job and runs the next") as step:
        before = [j["id"] for j in stack.ok("job", "list")["items"]]
        container = stack.containers("quantd")[0]
        stack.engine("kill", "-s", "KILL", container)
        # podman's restart policy may be quicker; Docker takes a kill by hand for a stop
        run([*stack.engine.command, "start", container], check=False)
        begun = time.monotonic()
        stack.wait_healthy()
        check([j["id"] for j in stack.ok("job", "list")["items"]] == before, "jobs were lost")
        step.note(f"healthy again after {time.monotonic() - begun:.1f} s, {len(before)} jobs there")
        job = stack.ok("job", "submit", *arguments, "--no-cache", "--watch")
        check(job["state"] == "SUCCEEDED", f"the job is {job}")


def fleet(stack):
    say("---- the fleet: PostgreSQL and S3")
    bring_up(stack)
    arguments = run_a_job(stack)
    on_its_stores(stack)
    kill_quantd(stack, arguments)
    take_down(stack)


# ---------------------------------------------------------------- main


def main():
    parser = argparse.ArgumentParser(prog="./dev container-test", description=__doc__.split("\n\n")[1],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", nargs="*", metavar="one|fleet", help="only these; default: both")
    parser.add_argument("--image", default="localhost/quantd", help="name of the image (default %(default)s)")
    parser.add_argument("--skip-build", action="store_true", help="use the image that is there")
    options = parser.parse_args()
    if set(options.profiles) - {"one", "fleet"}:
        parser.error(f"profiles are one and fleet, not {' '.join(options.profiles)}")
    if os.environ.get("QUANT_DEV_INSIDE"):
        explain("this test is for the host, outside of ./dev's environment: ./dev container-test")
    try:
        engine = Engine.find()
    except Missing as missing:
        explain(missing)
    engine.enter()
    lock = engine.only_one()  # held to the end of the program
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    s3_image = options.image + "-s3"
    say(f"engine: {engine('--version').splitlines()[0]}" + (f", by {engine.lab.name}" if lock else ""))
    with tempfile.TemporaryDirectory(prefix="quant-container-test.") as folder:
        work = pathlib.Path(folder)
        if engine.lab:
            with Step("images of Debian packages stand in for those of a registry") as step:
                made = engine.prepare_images(work / "stand-ins.log")
                step.note("made: " + (", ".join(made) or "none, all were there"))
        if not options.skip_build:
            build_image(engine, options.image, work)
        check_image(engine, options.image)
        wanted = options.profiles or ["one", "fleet"]
        if "fleet" in wanted and not (options.skip_build and engine.has_image(s3_image)):
            with Step(f"{s3_image} is built"):
                engine.build(s3_image, TOP / "deploy" / "image" / "s3", work / "s3.log")
        engine.leave_network()  # every image is there
        for name, act in (("one", one_machine), ("fleet", fleet)):
            if name not in wanted:
                continue
            stack = Stack(engine, f"quant-test-{name}-{secrets.token_hex(3)}", options.image, s3_image, work, name == "fleet")
            try:
                act(stack)
            except BaseException:
                print("\n".join(stack.logs()), file=sys.stderr)
                raise
            finally:
                engine.remove_stack(stack.project)
    say("done: all of it")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, subprocess.TimeoutExpired) as failure:
        say(f"FAILED: {failure}")
        sys.exit(1)
