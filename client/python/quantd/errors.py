# SPDX-License-Identifier: Apache-2.0
"""What can go wrong. Everything this package raises on purpose is an Error."""
import grpc

from .v1 import errors_pb2

_DETAIL = "grpc-status-details-bin"


class Error(Exception):
    """A call that failed.

    code: the gRPC status as a name ("NOT_FOUND"), or None when the fault was found on this side.
    reason: a constant of the service (quant.v1.ErrorDetail), such as "BLOB_DIGEST_MISMATCH"; "" without one.
    metadata: values that belong to the reason. retry_after: seconds to wait before it makes sense to try again, or 0.
    """

    def __init__(self, message, code=None, reason="", metadata=None, retry_after=0.0):
        super().__init__(message)
        self.code, self.reason, self.metadata, self.retry_after = code, reason, dict(metadata or {}), retry_after
        self.failures = 0


class Unreachable(Error):
    """No server answers there, or it stopped answering."""


class Unauthenticated(Error):
    """The server wants a token or certificate, and the one shown is not good."""


class PermissionDenied(Error):
    """The caller's role or tenant forbids it; for ids of a service with tenants also: there is no such thing."""


class NotFound(Error):
    """No resource has this id."""


class InvalidRequest(Error):
    """A value that the service, or this package before it, does not take."""


class ConfigurationError(Error):
    """Address, token or certificates cannot be used."""


class LocalFileError(Error):
    """A local file is missing, unfit, in the way, or changed meanwhile."""


class DataLoss(Error):
    """Bytes arrived that do not hash to what they should."""


class JobFailed(Error):
    """A job that was waited for ended otherwise than SUCCEEDED. `job` is the job; reason is its error's."""

    def __init__(self, job):
        error = job.get("error") or {}
        text = f": {error['message']}" if error.get("message") else ""
        super().__init__(f"job {job['id']} is {job['state']}{text}", reason=error.get("reason", ""))
        self.job = job


_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unreachable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
}


def from_rpc(error, server):
    """The Error for a grpc.RpcError of a call to `server`."""
    code = error.code()
    detail = errors_pb2.ErrorDetail()
    for key, value in error.trailing_metadata() or ():
        if key == _DETAIL:
            try:
                detail.ParseFromString(value)
            except Exception:  # not ours, or damaged: the message is still there
                detail.Clear()
    message = error.details() or code.name
    if code == grpc.StatusCode.UNAVAILABLE:
        message = f"cannot reach the server at {server}: {message}. Is quantd running there?"
    elif code == grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"the server at {server} did not answer in time: {message}"
    wait = detail.retry_after.seconds + detail.retry_after.nanos / 1e9
    return _BY_CODE.get(code, Error)(message, code.name, detail.reason, detail.metadata, wait)
