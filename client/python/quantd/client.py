# SPDX-License-Identifier: Apache-2.0
"""Client: every call of the service as a method that takes and returns plain Python values."""
import logging
import os
import pathlib
import queue
import threading
import time
import uuid

import grpc

from . import manifest, recipe as recipes
from .connection import Connection
from .errors import ConfigurationError, Error, InvalidRequest, JobFailed, LocalFileError, NotFound, Unreachable, from_rpc
from .messages import enum_number, set_field, to_dict
from .retry import Backoff, is_broken_stream
from .transfer import Transfer
from .v1 import artifacts_pb2, artifacts_pb2_grpc, jobs_pb2, jobs_pb2_grpc, workers_pb2, workers_pb2_grpc

_PAGE = 500        # the server's largest
_SILENCE = 45.0    # the server promises a message of a watch every 15 s
_log = logging.getLogger("quantd")


def connect(server=None, *, token=None, token_file=None, tls_ca=None, tls_cert=None, tls_key=None, **options):
    """A Client of the service at `server` ("HOST:PORT"). Does not call it yet.

    What is not given is read from where quantctl reads it: QUANT_SERVER, QUANT_TOKEN or QUANT_TOKEN_FILE, QUANT_TLS_CA,
    QUANT_TLS_CERT, QUANT_TLS_KEY. tls_ca turns TLS on. The token file is followed, certificates are read once. `options` are
    those of Client. Raises ConfigurationError.
    """
    get = os.environ.get
    if not token and not token_file:
        token = get("QUANT_TOKEN")
        token_file = None if token else get("QUANT_TOKEN_FILE")
    if not tls_cert and not tls_key:
        tls_cert, tls_key = get("QUANT_TLS_CERT"), get("QUANT_TLS_KEY")
    server = server or get("QUANT_SERVER")
    if not server:
        raise ConfigurationError("no server: give connect(\"HOST:PORT\") or set QUANT_SERVER")
    return Client(server, token=token, token_file=token_file, tls_ca=tls_ca or get("QUANT_TLS_CA"), tls_cert=tls_cert,
                  tls_key=tls_key, **options)


class Client:
    """The service. Thread-safe; a context manager, which closes the connection.

    call_deadline: seconds one call may take. patience: how long a call is repeated while the server is not reachable;
    long_patience: the same for transfers and waits that were under way when the server went.
    """

    def __init__(self, server, *, token=None, token_file=None, tls_ca=None, tls_cert=None, tls_key=None,
                 insecure_tokens=False, call_deadline=30.0, patience=5.0, long_patience=60.0):
        self._connection = Connection(server, token, token_file, tls_ca, tls_cert, tls_key, insecure_tokens, call_deadline,
                                      patience)
        channel = self._connection.channel
        self._artifacts = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        self._jobs = jobs_pb2_grpc.JobServiceStub(channel)
        self._workers = workers_pb2_grpc.WorkerServiceStub(channel)
        self._transfer = Transfer(self._connection, self._artifacts, long_patience)
        self._long_patience = long_patience

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._connection.close()

    @property
    def server(self):
        """"HOST:PORT"."""
        return self._connection.server

    # ---- models and datasets

    def upload_model(self, path, name=None, progress=None):
        """Uploads a .onnx file, a folder with one and its external data, or a Hugging Face folder; returns the model.

        Only what the server lacks is sent. An upload that broke goes on where it ended: by itself while this call lasts, else
        when it is made again. progress(done_bytes, total_bytes) is called as bytes go, from other threads, one at a time.
        """
        return self._create(manifest.check_model, self._artifacts.CreateModel, artifacts_pb2.CreateModelRequest, "model", path,
                            name, progress)

    def upload_dataset(self, path, name=None, progress=None):
        """Uploads data: a .npy, .npz, .safetensors or .txt file, or a folder (docs/formats/datasets.md); as upload_model."""
        return self._create(manifest.check_dataset, self._artifacts.CreateDataset, artifacts_pb2.CreateDatasetRequest,
                            "dataset", path, name, progress)

    def _create(self, check, method, request_type, noun, path, name, progress):
        files = manifest.find(path)
        check(files)
        self._transfer.upload_missing(files, progress)
        request = request_type(name=name or manifest.default_name(path))
        for file in files:
            entry = request.files.add(path=file.name)
            entry.digest.sha256, entry.digest.size_bytes = file.sha256, file.size
        return to_dict(getattr(self._connection.call(method, request), noun))

    def get_model(self, model_id):
        """One model."""
        return to_dict(self._connection.call(self._artifacts.GetModel, artifacts_pb2.GetModelRequest(id=model_id)).model)

    def get_dataset(self, dataset_id):
        """One dataset."""
        return to_dict(self._connection.call(self._artifacts.GetDataset, artifacts_pb2.GetDatasetRequest(id=dataset_id)).dataset)

    def list_models(self, limit=0):
        """The newest `limit` models; 0: all."""
        return self._list(self._artifacts.ListModels, artifacts_pb2.ListModelsRequest(), "models", limit)

    def list_datasets(self, limit=0):
        """The newest `limit` datasets; 0: all."""
        return self._list(self._artifacts.ListDatasets, artifacts_pb2.ListDatasetsRequest(), "datasets", limit)

    def delete_model(self, model_id):
        """Deletes a model that no unfinished job needs."""
        self._delete(self._artifacts.DeleteModel, artifacts_pb2.DeleteModelRequest(id=model_id))

    def delete_dataset(self, dataset_id):
        """Deletes a dataset that no unfinished job needs."""
        self._delete(self._artifacts.DeleteDataset, artifacts_pb2.DeleteDatasetRequest(id=dataset_id))

    def download(self, model_id, folder, force=False, progress=None):
        """Downloads a model (or, by a job's id, the model that it made) into a folder, which is made; returns the model.

        Every file is checked against its SHA-256 and appears only when it is right. Files that are there already are not
        fetched; one with other content is a LocalFileError unless `force`. Nothing is written outside `folder`.
        """
        if model_id.startswith("j-"):
            job = self.get_job(model_id)
            if not job["result_model_id"]:
                raise Error(f"job {model_id} has made no model: it is {job['state']}", "FAILED_PRECONDITION")
            model_id = job["result_model_id"]
        model = self.get_model(model_id)
        folder = pathlib.Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalFileError(f"cannot make the folder {folder}: {error.strerror}") from None
        wanted = []
        for file in model["files"]:
            place, sha256 = manifest.place_below(folder, file["path"]), file["digest"]["sha256"]
            if manifest.holds(place, sha256):
                continue
            if os.path.lexists(place) and not force:
                raise LocalFileError(f"{place} exists with other content: force=True replaces it")
            wanted.append((place, sha256, file["digest"]["size_bytes"]))
        self._transfer.download_all(wanted, progress)
        return model

    # ---- jobs

    def submit(self, model, method=None, *, kind="quantize", calibration=None, evaluation=None, baseline=None, recipe=None,
               candidates=None, max_drop=None, objective=None, name=None, priority=None, max_attempts=None, timeout=None,
               labels=None, request_id=None, no_cache=False, **options):
        """Submits a job and returns it, QUEUED or, where the same work was done before, SUCCEEDED.

        model, baseline: ids of models; calibration, evaluation: ids of datasets. recipe: a dict, or a file as `quantctl job
        submit --recipe` takes it. options: each flag of `quantctl job submit` that belongs to the method, with "_" for "-":
        bits=4, group_size=128, observer="entropy", skip=["lm_head*"], format="gguf". They override the recipe.
        candidates: recipes, for kind "tune" and method "mixed". objective: "size" or "latency", for kind "tune". timeout:
        seconds of one attempt.
        Safe to repeat with the same request_id; by itself each call has its own.
        """
        spec = jobs_pb2.JobSpec()
        made = recipes.read(recipe)
        if kind in ("quantize", "analyze"):
            if method:
                recipes.set_method(made, method)
            if not recipes.method_name(made):
                raise InvalidRequest(f"no method: give one of {', '.join(recipes.METHODS)}, or a recipe that has one")
            if recipes.method_name(made) == "mixed":
                options.update(candidates=candidates, max_drop=max_drop)
        elif method:
            raise InvalidRequest(f"kind {kind} has no method")
        recipes.apply(made, options)
        if kind == "quantize":
            spec.quantize.model_id, spec.quantize.output_name = model, name or ""
            spec.quantize.calibration_dataset_id, spec.quantize.evaluation_dataset_id = calibration or "", evaluation or ""
            spec.quantize.recipe.CopyFrom(made)
        elif kind == "calibrate":
            spec.calibrate.model_id, spec.calibrate.dataset_id = model, calibration or ""
            spec.calibrate.calibration.CopyFrom(made.calibration)
        elif kind == "benchmark":
            spec.benchmark.model_id, spec.benchmark.dataset_id = model, evaluation or ""
            spec.benchmark.baseline_model_id = baseline or ""
            spec.benchmark.evaluation.CopyFrom(made.evaluation)
        elif kind == "analyze":
            spec.analyze.model_id, spec.analyze.dataset_id = model, calibration or ""
            spec.analyze.recipe.CopyFrom(made)
        elif kind == "tune":
            spec.tune.model_id = model
            spec.tune.calibration_dataset_id, spec.tune.evaluation_dataset_id = calibration or "", evaluation or ""
            spec.tune.candidates.extend(recipes.read(c) for c in candidates or ())
            if max_drop is not None:
                spec.tune.max_drop = max_drop
            if objective:
                set_field(spec.tune, spec.tune.DESCRIPTOR.fields_by_name["objective"], objective, "objective")
            if made.HasField("calibration"):
                spec.tune.calibration.CopyFrom(made.calibration)
            if made.HasField("evaluation"):
                spec.tune.evaluation.CopyFrom(made.evaluation)
            spec.tune.output_name = name or ""
        else:
            raise InvalidRequest(f"no kind '{kind}'; there are quantize, calibrate, benchmark, analyze, tune")
        spec.priority, spec.max_attempts = priority or 0, max_attempts or 0
        if timeout:
            spec.attempt_timeout.FromMilliseconds(round(timeout * 1000))
        for key, value in (labels or {}).items():
            spec.labels[key] = value
        request = jobs_pb2.SubmitJobRequest(spec=spec, request_id=request_id or str(uuid.uuid4()), no_cache=no_cache)
        return to_dict(self._connection.call(self._jobs.SubmitJob, request).job)

    def get_job(self, job_id):
        """One job."""
        return to_dict(self._connection.call(self._jobs.GetJob, jobs_pb2.GetJobRequest(id=job_id)).job)

    def list_jobs(self, limit=0, states=(), kind="", labels=None):
        """The newest `limit` jobs (0: all) in one of these states, of this kind, with all of these labels."""
        enum = jobs_pb2.JobState.DESCRIPTOR
        request = jobs_pb2.ListJobsRequest(states=[enum_number(enum, s, "states") for s in states], kind=kind,
                                           labels=labels or {})
        return self._list(self._jobs.ListJobs, request, "jobs", limit)

    def cancel(self, job_id):
        """Asks that a job stop; returns it, CANCELLING until its worker has stopped it."""
        return to_dict(self._connection.call(self._jobs.CancelJob, jobs_pb2.CancelJobRequest(id=job_id)).job)

    def retry(self, job_id):
        """Queues a FAILED, CANCELLED or DEAD job again."""
        return to_dict(self._connection.call(self._jobs.RetryJob, jobs_pb2.RetryJobRequest(id=job_id)).job)

    def delete_job(self, job_id):
        """Deletes a job that is not running, with its report. Models that it made stay."""
        self._delete(self._jobs.DeleteJob, jobs_pb2.DeleteJobRequest(id=job_id))

    def report(self, job_id):
        """What a job measured, as a dict: size, metrics, latency, throughput, phases, layers, provenance, …"""
        return to_dict(self._connection.call(self._jobs.GetJobReport, jobs_pb2.GetJobReportRequest(id=job_id)).report)

    def wait(self, job_id, progress=None, timeout=None, check=True):
        """Follows a job until it has ended and returns it.

        progress(job) is called with each state that arrives: job["state"], job["progress"]["phase"], ["fraction"],
        ["message"]. A server that goes away is looked for again until nothing was heard for long_patience seconds: Unreachable.
        With `check`, a job that did not succeed is a JobFailed. After `timeout` seconds TimeoutError; the job goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        backoff = Backoff(self._long_patience, longest=3.0, first=0.2)
        # Asking for the job first proves the server alive and the id right; the stream may then be silent for 15 s.
        job = self._connection.call(self._jobs.GetJob, jobs_pb2.GetJobRequest(id=job_id)).job
        while True:
            began = time.monotonic()
            sequence = job.sequence
            try:
                for heard in self._states(job, deadline):
                    job = _newer(job, heard)
                    if job is not heard:
                        continue
                    if progress:
                        progress(to_dict(job))
                    if _settled(job):
                        ended = to_dict(job)
                        if check and ended["state"] != "SUCCEEDED":
                            raise JobFailed(ended)
                        return ended
                error = Unreachable("the server ended the watch before the job ended", "UNAVAILABLE")
            except JobFailed:
                raise
            except Error as broken:
                if not is_broken_stream(broken):
                    raise
                error = broken
            _log.warning("lost the server at %s; trying to reach it again for %.0f s", self.server, self._long_patience)
            job = _newer(job, self._find_again(job_id, error, backoff, deadline))
            _log.warning("reached the server at %s again", self.server)
            # A server that answers calls but drops every stream at once is no progress.
            if time.monotonic() - began > 5 or job.sequence > sequence:
                backoff.progress()

    def _find_again(self, job_id, error, backoff, deadline):
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} has not ended in time, and the server is away: {error}")
            backoff.wait(error)
            try:
                return self._connection.once(self._jobs.GetJob, jobs_pb2.GetJobRequest(id=job_id), timeout=10).job
            except Error as again:
                if not is_broken_stream(again):
                    raise
                error = again

    def _states(self, job, deadline):
        """The job as it is, then each state that arrives until the stream ends. Raises Error, TimeoutError."""
        yield job
        if _settled(job):
            return
        call = self._jobs.WatchJob(jobs_pb2.WatchJobRequest(id=job.id, after_sequence=job.sequence),
                                   metadata=self._connection.metadata())
        arrived = queue.SimpleQueue()

        def read():
            try:
                for answer in call:
                    arrived.put(answer.job)
                arrived.put(None)
            except grpc.RpcError as error:
                arrived.put(error)

        threading.Thread(target=read, daemon=True).start()
        try:
            while True:
                left = _SILENCE if deadline is None else min(_SILENCE, deadline - time.monotonic())
                try:
                    item = arrived.get(timeout=max(left, 0.001))
                except queue.Empty:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise TimeoutError(f"job {job.id} has not ended in time; it goes on") from None
                    raise Unreachable("the server has gone silent", "UNAVAILABLE") from None
                if item is None:
                    return
                if isinstance(item, grpc.RpcError):
                    raise from_rpc(item, self.server) from None
                yield item
        finally:
            call.cancel()

    # ---- workers

    def list_workers(self):
        """Workers seen in the last hour. Operators only, where there are tokens."""
        answer = self._connection.call(self._workers.ListWorkers, workers_pb2.ListWorkersRequest())
        return [{"id": w.info.id, **to_dict(w)} for w in answer.workers]

    # ---- shared

    def _list(self, method, request, items, limit):
        out = []
        request.page_size = min(limit, _PAGE) if limit > 0 else _PAGE
        while True:
            page = self._connection.call(method, request)
            for item in getattr(page, items):
                if limit and len(out) == limit:
                    return out
                out.append(to_dict(item))
            if not page.next_page_token or (limit and len(out) == limit):
                return out
            request.page_token = page.next_page_token

    def _delete(self, method, request):
        try:
            self._connection.call(method, request)
        except Error as error:
            # When an attempt was cut short and the next finds nothing, it was the first that did it.
            gone = isinstance(error, NotFound) or error.reason == "NOT_VISIBLE"
            if not gone or not error.failures:
                raise


def _newer(job, heard):
    """Of several servers on one database another one may not know yet what progress this one told; what is settled, all know."""
    return job if heard.sequence < job.sequence and not _settled(heard) else heard


def _settled(job):
    return job.state in (jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED,
                         jobs_pb2.JOB_STATE_DEAD)
