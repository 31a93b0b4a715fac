# SPDX-License-Identifier: Apache-2.0
"""Moves blobs: in messages of a megabyte, resumed where they broke, verified by SHA-256 (as common/transfer does)."""
import concurrent.futures
import fcntl
import hashlib
import logging
import os
import threading

import grpc

from .errors import DataLoss, Error, LocalFileError, from_rpc
from .retry import Backoff, is_broken_stream
from .v1 import artifacts_pb2 as pb

_MESSAGE = 1 << 20
_STREAM_DEADLINE = 600.0  # a stream that takes longer goes on in a new one; so long may a server hang unnoticed
_PARALLEL = 4
_DIGESTS_PER_CALL = 10_000
_log = logging.getLogger("quantd")


class _Progress:
    """Sums what several transfers have done and tells it to the caller, one call at a time."""

    def __init__(self, total, callback):
        self._total, self._callback, self._done, self._lock = total, callback, {}, threading.Lock()

    def tell(self, key, done):
        with self._lock:
            self._done[key] = done
            if self._callback:
                self._callback(sum(self._done.values()), self._total)


def _digest(sha256, size):
    return pb.Digest(sha256=sha256, size_bytes=size)


def _all(function, items):
    """function(item) of each, several at a time; the first error stops those that have not begun."""
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


class Transfer:
    """Uploads and downloads over one connection. Nothing moved for `patience` seconds is the end."""

    def __init__(self, connection, stub, patience):
        self._connection, self._stub, self._patience = connection, stub, patience

    # ---- up

    def missing(self, files):
        """Those of the files whose content the server lacks, each content once."""
        by_digest = {f.sha256: f for f in reversed(files)}
        unique = list(by_digest.values())
        wanted = set()
        for at in range(0, len(unique), _DIGESTS_PER_CALL):
            request = pb.FindMissingBlobsRequest(digests=[_digest(f.sha256, f.size) for f in unique[at:at + _DIGESTS_PER_CALL]])
            answer = self._connection.call(self._stub.FindMissingBlobs, request)
            wanted.update(d.sha256 for d in answer.missing)
        return [f for f in unique if f.sha256 in wanted]

    def upload_missing(self, files, progress):
        missing = self.missing(files)
        tell = _Progress(sum(f.size for f in missing), progress).tell
        _all(lambda file: self._upload(file, lambda done: tell(file.sha256, done)), missing)

    def _upload(self, file, tell):
        backoff = Backoff(self._patience)
        query = pb.QueryWriteStatusRequest(upload_id=file.sha256, digest=_digest(file.sha256, file.size))
        best = 0
        while True:
            try:
                at = self._connection.once(self._stub.QueryWriteStatus, query)
                if at.committed_size > best:
                    backoff.progress()
                    best = at.committed_size
                    _log.info("%s: going on at %d of %d bytes", file.path.name, best, file.size)
                if at.complete or self._write(file, at.committed_size, tell):
                    return tell(file.size)
                raise Error("the server ended the upload before its end", "UNAVAILABLE")
            except Error as error:
                if error.reason == "BLOB_DIGEST_MISMATCH":
                    raise LocalFileError(f"the server got other bytes of {file.path} than were hashed: {error}. Did the file "
                                         "change? Run again when nothing writes to it", error.code, error.reason,
                                         error.metadata) from None
                if not is_broken_stream(error) and error.reason not in ("UPLOAD_BUSY", "UPLOAD_OFFSET_MISMATCH"):
                    raise
                _log.warning("upload of %s: %s; trying again", file.path.name, error)
                backoff.wait(error)

    def _write(self, file, offset, tell):
        local = []

        def messages():
            at = offset
            try:
                with open(file.path, "rb") as source:
                    source.seek(at)
                    while True:
                        data = source.read(min(_MESSAGE, file.size - at))
                        if len(data) < min(_MESSAGE, file.size - at):
                            raise LocalFileError(f"{file.path} changed since it was hashed (it had {file.size} bytes): run again "
                                                 "when nothing writes to it")
                        message = pb.WriteBlobRequest(write_offset=at, data=data, finish_write=at + len(data) == file.size)
                        if at == offset:
                            message.upload_id = file.sha256
                            message.digest.CopyFrom(_digest(file.sha256, file.size))
                        yield message
                        at += len(data)
                        tell(at)
                        if at == file.size:
                            return
            except (OSError, LocalFileError) as error:
                local.append(error)
                raise

        try:
            answer = self._stub.WriteBlob(messages(), timeout=_STREAM_DEADLINE, metadata=self._connection.metadata())
            return answer.complete
        except grpc.RpcError as error:
            if local:
                cause = local[0]
                raise cause if isinstance(cause, LocalFileError) else LocalFileError(f"cannot read {file.path}: {cause}") from None
            raise from_rpc(error, self._connection.server) from None

    # ---- down

    def download_all(self, wanted, progress):
        """wanted: [(place, sha256, size)]"""
        tell = _Progress(sum(size for _, _, size in wanted), progress).tell
        _all(lambda item: self._download(*item, lambda done: tell(item[0], done)), wanted)

    def _download(self, place, sha256, size, tell):
        part, file = _open_part(place, sha256)
        keep = False
        try:
            with file:
                for attempt in ("resume", "afresh"):
                    have = os.fstat(file.fileno()).st_size
                    if have > size or attempt == "afresh":
                        have = 0
                    file.truncate(have)
                    digest = hashlib.sha256()
                    file.seek(0)
                    while block := file.read(_MESSAGE):
                        digest.update(block)
                    resumed = have
                    tell(have)
                    try:
                        self._fetch(file, digest, sha256, size, have, tell)
                    except Error as error:
                        keep = is_broken_stream(error)  # the next run goes on here
                        raise
                    if digest.hexdigest() == sha256:
                        break
                    if resumed == 0:
                        raise DataLoss(f"the server's bytes of blob {sha256} hash to {digest.hexdigest()}: its store is damaged, "
                                       "or something changes bytes on the way")
                file.flush()
                os.fsync(file.fileno())
                os.replace(part, place)
                keep = True
        except OSError as error:
            raise LocalFileError(f"cannot write {place}: {error.strerror}") from None
        finally:
            if not keep and part.exists():
                part.unlink()

    def _fetch(self, file, digest, sha256, size, have, tell):
        backoff = Backoff(self._patience)
        while have < size:
            request = pb.ReadBlobRequest(digest=_digest(sha256, size), read_offset=have)
            before = have
            try:
                for answer in self._stub.ReadBlob(request, timeout=_STREAM_DEADLINE, metadata=self._connection.metadata()):
                    if len(answer.data) > size - have:
                        raise DataLoss(f"the server sent more than the {size} bytes of blob {sha256}")
                    file.write(answer.data)
                    digest.update(answer.data)
                    have += len(answer.data)
                    tell(have)
                if have < size:
                    raise DataLoss(f"the server ended blob {sha256} at {have} of {size} bytes")
            except grpc.RpcError as rpc_error:
                error = from_rpc(rpc_error, self._connection.server)
                if not is_broken_stream(error):
                    raise error from None
                if have > before:
                    backoff.progress()
                _log.warning("download of %s: %s; trying again", sha256, error)
                file.flush()
                backoff.wait(error)


def _open_part(place, sha256):
    """(path, file) that a download is written to before its rename: the one an earlier run left, if nobody else uses it."""
    part = place.parent / f".{place.name[:120]}.{sha256[:32]}.part"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(part, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have renamed the file between our open and our lock.
            if os.path.samestat(os.fstat(descriptor), os.lstat(part)):
                return part, os.fdopen(descriptor, "r+b")
        except OSError:
            pass
        os.close(descriptor)
        part = part.with_name(f"{part.name[:-5]}.{os.getpid()}-{threading.get_ident()}.part")
        return part, os.fdopen(os.open(part, flags | os.O_TRUNC, 0o666), "r+b")
    except OSError as error:
        raise LocalFileError(f"cannot write {part}: {error.strerror}") from None
