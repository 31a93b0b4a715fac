# SPDX-License-Identifier: Apache-2.0
"""Faults by a seeded nemesis against the real programs, judged by a history checker. README.md beside this says how.

  fault_test.py [--cycles N] [--seed S] [--round R] [--faults NAME,…] [--keep DIR] [--postgres]

--postgres: two quantd on a real PostgreSQL server, which is broken as well.

Exit status: 0 no violation, 1 violations (printed), 77 cannot run here."""
import argparse
import collections
import contextlib
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
import time

import checker
import nemesis
import postgres_server
import workload
from cluster import Cluster
from history import OK, History
from service import SETTLED, Service

ROUND = 20        # cycles on one data folder
CLIENTS = 3
RECOVERY = 90.0   # seconds in which the service must finish what it has once faults have stopped


def no_cache_flags(service):
    help_text = service.quantctl("job", "submit", "--help").out
    return ["--no-cache"] if "--no-cache" in help_text else []


def make_reference():
    """recipe -> {path: digest}: results of a run in which nothing goes wrong."""
    with Service(workers=1, worker_flags=["--threads", "1"]) as service:
        ids, no_cache = workload.upload_inputs(service), no_cache_flags(service)
        reference = {}
        for recipe in workload.RECIPES:
            flags = workload.recipe_flags(recipe, ids, no_cache)
            reference[recipe] = service.download(service.run_job(*flags)["result_model_id"], recipe)
        return reference, no_cache


def collect(cluster):
    """What the service holds, read from it."""
    def listing(kind):
        return {item["id"]: item for item in cluster.ok(kind, "list", "--limit", "0")["items"]}
    final = checker.Final(jobs=listing("job"), models=listing("model"), datasets=listing("dataset"), files={}, metrics={},
                          bad_blobs=cluster.bad_blobs(), crashes=cluster.crashes)
    for model in final.models:
        folder = cluster.folder / "final"
        result = cluster.quantctl("model", "download", model, folder, "--output", "json")
        final.files[model] = workload.files_under(folder) if result.code == 0 else str(result)
        shutil.rmtree(folder, ignore_errors=True)
    return final


class Round:
    """One data folder: clients call, faults come one after the other, then all is mended and judged."""

    def __init__(self, seed, number, faults, options, reference, no_cache):
        self.random = random.Random(f"{seed}/{number}")
        self.faults, self.options, self.reference, self.no_cache = faults, options, reference, no_cache
        self.history, self.seed = History(), f"{seed}/{number}"
        self.done = collections.Counter()
        self.without, self.violations, self.final = {}, [], None

    def run(self):
        postgres = self.options.postmaster
        with Cluster(self.seed, store=postgres and postgres.new_database(), postmaster=postgres,
                     servers=2 if postgres else 1) as cluster:
            self.without = cluster.without
            ids = workload.upload_inputs(cluster)
            clients = [workload.Client(f"client-{i}", f"{self.seed}/{i}", cluster, self.history, ids, self.no_cache)
                       for i in range(CLIENTS)]
            for client in clients:
                client.start()
            try:
                for name in self.faults(cluster, self.random):
                    self._cycle(cluster, name)
            finally:
                for client in clients:
                    client.stop()
                for client in clients:
                    client.join(timeout=60)
            for client in clients:
                if client.error is not None:
                    raise client.error
            self._judge(cluster)
            if self.violations:
                cluster.print_logs()

    def _cycle(self, cluster, name):
        time.sleep(self.random.uniform(0.1, 0.8))
        began = time.monotonic()
        nemesis.FAULTS[name][2](cluster, self.random)
        cluster.note_crashes()
        deadline = time.monotonic() + RECOVERY
        while not cluster.answers():
            dead = [server for server in cluster.servers() if not server.alive()]
            if dead or time.monotonic() > deadline:
                self.violations.append(f"recovery: quantd does not answer after {name}")
                cluster.note_crashes()
                for server in dead:
                    cluster.restart_server(server)
                break
        self.done[name] += 1
        if self.options.verbose:
            print(f"  {name}: {time.monotonic() - began:.1f} s", flush=True)

    def _judge(self, cluster):
        workload.wait_for_jobs(cluster, RECOVERY)
        before = {j["id"]: (j["state"], j["result_model_id"]) for j in cluster.ok("job", "list", "--limit", "0")["items"]}
        cluster.note_crashes()
        for server in cluster.servers():  # what is judged is what a new server finds on disk
            nemesis.kill(server)
        for server in cluster.servers():
            cluster.restart_server(server)
        # Gauges follow within a second.
        self.final = collect(cluster)
        time.sleep(1.1)
        self.final.metrics = cluster.metrics()
        for job_id, (state, result) in before.items():
            after = self.final.jobs.get(job_id)
            if state in SETTLED and (after is None or (after["state"], after["result_model_id"]) != (state, result)):
                self.violations.append(f"changed: job {job_id} was {state} before the last restart")
        self.violations += checker.check(self.history.operations(), self.final, self.reference)


class Summary:
    """One page over all rounds."""

    def __init__(self):
        self.cycles, self.operations, self.jobs = collections.Counter(), collections.Counter(), collections.Counter()
        self.attempts = self.models = self.blobs = 0
        self.violations, self.without = [], {}

    def add(self, number, a_round):
        self.cycles += a_round.done
        self.without.update(a_round.without)
        for o in a_round.history.operations():
            self.operations[o.kind, o.outcome] += 1
        acknowledged = {o.value for o in a_round.history.operations("submit", OK)}
        self.jobs["acknowledged"] += len(acknowledged)
        for job in a_round.final.jobs.values():
            self.jobs[job["state"]] += 1
            self.attempts += job["attempt"]
        self.models += len(a_round.final.models)
        self.violations += [f"round {number}: {v}" for v in a_round.violations]

    def print(self, seed, seconds):
        # Of one thing that went wrong several clients may tell.
        things = {(v.split(": ")[0], v.split(": ")[1], (re.findall(r"\b[jmd]-\w+", v) or [v])[0]) for v in self.violations}
        rules = collections.Counter(rule for _, rule, _ in things)
        print(f"\nfault test, seed {seed}: {sum(self.cycles.values())} cycles in {seconds:.0f} s")
        for name, count in sorted(self.cycles.items()):
            print(f"  {name:24} {count:5}")
        for what, why in sorted(self.without.items()):
            print(f"  without faults of the {what}: {why}")
        print(f"{'operations':24} {'ok':>7} {'refused':>8} {'unknown':>8}")
        for kind in sorted({kind for kind, _ in self.operations}):
            print(f"  {kind:22} {self.operations[kind, 'ok']:7} {self.operations[kind, 'fail']:8} "
                  f"{self.operations[kind, 'unknown']:8}")
        made = sum(v for k, v in self.jobs.items() if k != "acknowledged")
        print(f"jobs acknowledged        {self.jobs['acknowledged']:5}   stored {made}, attempts {self.attempts}")
        print(f"jobs finished            {sum(self.jobs[s] for s in SETTLED):5}   "
              + ", ".join(f"{s} {self.jobs[s]}" for s in SETTLED))
        print(f"jobs lost                {rules['lost']:5}   unfinished {rules['unfinished']}")
        print(f"published twice          {rules['published']:5}   models read back {self.models}")
        corrupt = rules["upload"] + rules["result"] + rules["blob"]
        print(f"corrupt artifacts        {corrupt:5}")
        others = sum(rules.values()) - corrupt - rules["lost"] - rules["unfinished"] - rules["published"]
        print(f"other violations         {others:5}")
        for violation in self.violations[:50]:
            print(f"VIOLATION {violation}")
        sys.stdout.flush()


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, help="default: $QUANT_FAULT_CYCLES, else 200, with --postgres 100")
    parser.add_argument("--seed", default=os.environ.get("QUANT_FAULT_SEED") or str(random.SystemRandom().getrandbits(32)))
    parser.add_argument("--round", type=int, help="only this round of the seed")
    parser.add_argument("--faults", help="only these, comma-separated")
    parser.add_argument("--postgres", action="store_true", help="two quantd on a PostgreSQL server")
    parser.add_argument("--keep", type=pathlib.Path, help="write the histories here, also where all is well")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(argv)
    options.cycles = options.cycles or int(os.environ.get("QUANT_FAULT_CYCLES", "100" if options.postgres else "200"))
    return options


def main():
    options = parse(sys.argv[1:])
    if options.postgres and postgres_server.programs() is None:
        print("skipped: PostgreSQL is not installed")
        return 77
    with contextlib.ExitStack() as stack:
        options.postmaster = stack.enter_context(postgres_server.PostgresServer()) if options.postgres else None
        return run(options)


def run(options):
    print(f"seed {options.seed}: {options.cycles} cycles", flush=True)
    began, summary = time.monotonic(), Summary()
    reference, no_cache = make_reference()
    rounds = [min(ROUND, options.cycles - at) for at in range(0, options.cycles, ROUND)]
    for number, cycles in enumerate(rounds):
        if options.round is not None and number != options.round:
            continue

        def faults(cluster, rng, cycles=cycles):
            names = nemesis.possible(cluster)
            if options.faults:
                names = [n for n in names if n in options.faults.split(",")]
            return nemesis.schedule(names, cycles, rng)
        a_round = Round(options.seed, number, faults, options, reference, no_cache)
        a_round.run()
        summary.add(number, a_round)
        print(f"round {number}: {sum(a_round.done.values())} cycles, {len(a_round.final.jobs)} jobs, "
              f"{len(a_round.violations)} violations, {time.monotonic() - began:.0f} s", flush=True)
        for violation in a_round.violations:
            print(f"VIOLATION {violation}", flush=True)
        if options.keep or a_round.violations:
            folder = options.keep or pathlib.Path(tempfile.mkdtemp(prefix="quant-fault-history."))
            folder.mkdir(parents=True, exist_ok=True)
            a_round.history.write(folder / f"history-{options.seed}-{number}.jsonl")
            print(f"its history: {folder}/history-{options.seed}-{number}.jsonl", flush=True)
    summary.print(options.seed, time.monotonic() - began)
    if summary.violations:
        print(f"again: fault_test.py --seed {options.seed} --cycles {options.cycles}"
              f"{' --postgres' if options.postgres else ''} (--round R for one)")
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
