# SPDX-License-Identifier: Apache-2.0
"""Judges a history against what the service holds once the faults have stopped. Pure: no process, no clock.

  violations = check(history.operations(), Final(...), reference)

The rules, by the name that begins each violation:
  lost          an acknowledged submit, or a job once shown, is not there
  unfinished    a job is neither final nor DEAD; DEAD with attempts left; FAILED though its input is good
  request       one request_id, two jobs
  published     a SUCCEEDED job without exactly one model, or another job with any
  changed       an outcome that was told for ever is another one now
  cancel        an acknowledged cancel without a retry, and yet the job went on
  upload        an acknowledged upload is not there, or is other bytes
  result        a downloaded result is other bytes than the run without faults
  watch         states that went back, or that no edge of server/queue/job_state.h joins
  metrics       gauges that do not agree with the store after a restart
  blob          a file of the blob store does not hash to its name
"""
import collections
import dataclasses

from history import OK, UNKNOWN

FINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}
SETTLED = FINAL | {"DEAD"}

# state -> states that one event leads to: the table of server/queue/job_state.h.
EDGES = {
    "QUEUED": {"RUNNING", "CANCELLED", "SUCCEEDED"},
    "RUNNING": {"SUCCEEDED", "FAILED", "RETRY_WAIT", "DEAD", "QUEUED", "CANCELLING"},
    "RETRY_WAIT": {"QUEUED", "CANCELLED"},
    "CANCELLING": {"SUCCEEDED", "FAILED", "CANCELLED"},
    "SUCCEEDED": set(),
    "FAILED": {"QUEUED"},
    "CANCELLED": {"QUEUED"},
    "DEAD": {"QUEUED", "CANCELLED"},
}


def _distances():
    """{(from, to): the fewest events that lead there}; a pair that is not in it cannot follow."""
    found = {}
    for start in EDGES:
        queue, seen = collections.deque([(start, 0)]), {start}
        while queue:
            state, steps = queue.popleft()
            for after in EDGES[state]:
                if after not in seen:
                    seen.add(after)
                    queue.append((after, steps + 1))
                    found[start, after] = steps + 1
    return found


DISTANCE = _distances()


@dataclasses.dataclass
class Final:
    """What the service holds at the end, read from it after a last restart."""
    jobs: dict       # id -> quantctl's job
    models: dict     # id -> quantctl's model
    datasets: dict   # id -> quantctl's dataset
    files: dict      # model id -> {path: sha256} of what `model download` gave
    metrics: dict    # name with labels -> value
    bad_blobs: list  # names of files of the blob store that hash to something else
    crashes: list    # processes that ended though nobody ended them


def check(operations, final, reference):
    """Violations, each "rule: what". `reference`: recipe name -> {path: sha256} of a result made without faults."""
    found = []
    for rule in (_submits, _settled, _published, _outcomes, _cancels, _uploads, _results, _watches, _metrics):
        found += rule(operations, final, reference)
    found += [f"blob: {name} holds other bytes" for name in final.bad_blobs]
    found += [f"crash: {what}" for what in final.crashes]
    return found


def _acknowledged(operations, kind):
    return [o for o in operations if o.kind == kind and o.outcome == OK]


def _submits(operations, final, _):
    by_request = collections.defaultdict(set)
    for o in _acknowledged(operations, "submit"):
        by_request[o.args["request_id"]].add(o.value)
        if o.value not in final.jobs:
            yield f"lost: job {o.value}, acknowledged to {o.client}, is not there"
    for o in operations:
        if o.kind in ("show", "cancel", "retry") and "there is no job" in o.note:
            yield f"lost: job {o.args['job']}, acknowledged before, was denied to {o.client}"
    for request, jobs in by_request.items():
        if len(jobs) > 1:
            yield f"request: {request} was answered with jobs {sorted(jobs)}"
    # A submit without an answer may have happened, but only once.
    of_request = collections.Counter(j.get("spec", {}).get("labels", {}).get("request") for j in final.jobs.values())
    for request, count in of_request.items():
        if request is not None and count > 1:
            yield f"request: {request} made {count} jobs"


def _settled(_, final, __):
    for job in final.jobs.values():
        error = job.get("error") or {}
        if job["state"] not in SETTLED:
            yield f"unfinished: job {job['id']} is {job['state']} after attempt {job['attempt']}"
        elif job["state"] == "FAILED":
            yield f"unfinished: job {job['id']} FAILED on good input: {error.get('reason')}: {error.get('message')}"
        elif job["state"] == "DEAD" and job["attempt"] < job["spec"]["max_attempts"]:
            yield f"unfinished: job {job['id']} is DEAD after {job['attempt']} of {job['spec']['max_attempts']} attempts"


def _published(_, final, __):
    made = collections.defaultdict(list)
    for model in final.models.values():
        if model["source_job_id"]:
            made[model["source_job_id"]].append(model["id"])
    for job in final.jobs.values():
        models = made.pop(job["id"], [])
        if job["state"] == "SUCCEEDED":
            if models != [job["result_model_id"]]:
                yield f"published: job {job['id']} names {job['result_model_id']} and made {models}"
        elif models:
            yield f"published: job {job['id']} is {job['state']} and made {models}"
    for job_id, models in made.items():
        yield f"published: models {models} of job {job_id}, which is not there"


def _sightings(operations):
    """(time told at the latest, job id, state, sequence, result) of every state that any client was told."""
    for o in operations:
        if o.outcome == OK and o.kind in ("show", "cancel", "retry"):
            yield o.completed, o.value["id"], o.value["state"], o.value["sequence"], o.value["result_model_id"]
        if o.kind == "watch":
            for event in o.value or []:
                yield o.completed, o.args["job"], event["state"], event["sequence"], event["result"]


def _outcomes(operations, final, _):
    states = collections.defaultdict(dict)
    for _, job_id, state, sequence, result in _sightings(operations):
        job = final.jobs.get(job_id)
        if job is None:
            yield f"lost: job {job_id}, once shown as {state}, is not there"
            continue
        before = states[job_id].setdefault(sequence, state)
        if before != state:
            yield f"changed: job {job_id} at sequence {sequence} was {before} and {state}"
        if sequence > job["sequence"]:
            yield f"changed: job {job_id} was at sequence {sequence} and ended at {job['sequence']}"
        if state == "SUCCEEDED" and (job["state"] != "SUCCEEDED" or job["result_model_id"] != result):
            yield f"changed: job {job_id} was SUCCEEDED with {result} and is {job['state']} with {job['result_model_id']}"


def _cancels(operations, final, _):
    for o in _acknowledged(operations, "cancel"):
        retried = any(r.kind == "retry" and r.args["job"] == o.args["job"] and r.completed >= o.invoked and
                      r.outcome in (OK, UNKNOWN) for r in operations)
        job = final.jobs.get(o.args["job"])
        if retried or job is None:
            continue
        allowed = {"CANCELLED"} if o.value["state"] == "CANCELLED" else FINAL
        if job["state"] not in allowed:
            yield f"cancel: job {job['id']} was told {o.value['state']} and is {job['state']}"


def _uploads(operations, final, _):
    for o in _acknowledged(operations, "upload"):
        held = (final.models if o.args["what"] == "model" else final.datasets).get(o.value)
        if held is None:
            yield f"upload: {o.args['what']} {o.value}, acknowledged to {o.client}, is not there"
            continue
        digests = {f["path"]: f["digest"]["sha256"] for f in held["files"]}
        if digests != o.args["files"]:
            yield f"upload: {o.value} has files {digests}, sent were {o.args['files']}"
        if o.args["what"] == "model" and final.files.get(o.value) != o.args["files"]:
            yield f"upload: {o.value} reads as {final.files.get(o.value)}, sent was {o.args['files']}"


def _results(operations, final, reference):
    by_job = {o.value: o.args["recipe"] for o in _acknowledged(operations, "submit")}
    sent = {o.value: o.args["files"] for o in _acknowledged(operations, "upload") if o.args["what"] == "model"}
    for job_id, recipe in by_job.items():
        job = final.jobs.get(job_id)
        if job is None or job["state"] != "SUCCEEDED":
            continue
        got = final.files.get(job["result_model_id"])
        if got != reference[recipe]:
            yield f"result: job {job_id} ({recipe}) made {got}, wanted {reference[recipe]}"
    for o in _acknowledged(operations, "download"):
        wanted = reference[by_job[o.args["job"]]] if o.args.get("job") else sent.get(o.args["model"])
        if o.value != wanted:
            yield f"result: {o.client} downloaded {o.args['model']} as {o.value}, wanted {wanted}"


def _watches(operations, _, __):
    for o in operations:
        if o.kind != "watch" or not o.value:
            continue
        for before, after in zip(o.value, o.value[1:]):
            what = f"{o.args['job']}: {before['state']} ({before['sequence']}) -> {after['state']} ({after['sequence']})"
            steps = after["sequence"] - before["sequence"]
            if steps < 0:
                yield f"watch: the sequence went back, job {what}"
            elif before["state"] == after["state"]:
                pass  # progress, a sign of life, or a way round
            elif DISTANCE.get((before["state"], after["state"]), steps + 1) > steps:
                yield f"watch: no such way, job {what}"
        if o.outcome == OK and o.value[-1]["state"] not in SETTLED:
            yield f"watch: of job {o.args['job']} ended in {o.value[-1]['state']}"


def _metrics(_, final, __):
    states = collections.Counter(j["state"].lower() for j in final.jobs.values())
    for state in EDGES:
        yield from _gauge(final, f'quant_jobs{{state="{state.lower()}"}}', states[state.lower()])
    yield from _gauge(final, 'quant_artifacts{kind="model"}', len(final.models))
    yield from _gauge(final, 'quant_artifacts{kind="dataset"}', len(final.datasets))


def _gauge(final, name, wanted):
    shown = final.metrics.get(name)
    if shown != wanted:
        yield f"metrics: {name} is {shown}, the store has {wanted}"
