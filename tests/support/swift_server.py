#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A real S3 server for tests: OpenStack Swift with its s3api, one proxy, account, container and object server on loopback
in a plain folder (Debian packages swift-proxy, swift-account, swift-container, swift-object).

  with SwiftServer() as swift:
      swift.endpoint, swift.access_key, swift.secret_key, swift.bucket      # the bucket exists
      swift.kill(); swift.restart()                                        # kill -9, and again on the same folder

As a program it does the same for tests in other languages: prints one line "swift ENDPOINT BUCKET ACCESS_KEY SECRET_KEY
FOLDER", then obeys lines on stdin ("kill", "restart"; each is answered "done") and stops at the end of stdin. Exit status
77 where Swift is not installed.

Its servers end with the thread that started them, however that ends.
"""
import contextlib
import datetime
import hashlib
import hmac
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SERVERS = ("account", "container", "object", "proxy")

PROXY = """
[pipeline:main]
pipeline = catch_errors healthcheck cache listing_formats s3api tempauth bulk slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
# tempauth asks for one; nothing listens here and it does without
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
# real S3 wants parts of 5 MiB; tests use smaller ones
min_segment_size = 1
max_upload_part_num = 10000
[filter:tempauth]
use = egg:swift#tempauth
user_quant_tester = testing .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
"""

STORAGE = """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


class SwiftServer:
    """See the top of the file."""

    access_key, secret_key, region = "quant:tester", "testing", "us-east-1"

    def __init__(self, bucket="quant-test"):
        self.bucket = bucket
        self.folder = self.endpoint = None
        self._processes, self._ports = {}, {}

    @staticmethod
    def installed():
        return all(shutil.which(f"swift-{name}-server") for name in SERVERS)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quant-swift."))
        try:
            self._configure()
            self.restart()
            self.request("PUT", "/" + self.bucket)
        except BaseException:
            self.stop(show_logs=True)
            raise
        return self

    def stop(self, show_logs=False):
        self.kill()
        if show_logs:
            for name in SERVERS:
                with contextlib.suppress(OSError):
                    print(f"---- {name}\n" + (self.folder / f"{name}.log").read_text()[-3000:], file=sys.stderr)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def kill(self):
        """kill -9 of all four servers, by their pids."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self._processes = {}

    def restart(self):
        """Starts the servers on the folder as it is, and waits until they answer."""
        for name in SERVERS:
            with open(self.folder / f"{name}.log", "ab") as log:
                self._processes[name] = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", f"swift-{name}-server", str(self.folder / f"{name}.conf"), "-v"],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        for name in SERVERS:
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", self._ports[name]), 1).close()
                    break
                if self._processes[name].poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"swift's {name} server does not start")
                time.sleep(0.05)

    def _configure(self):
        # Debian's Python is the one that has swift, whatever runs this file.
        from swift.common.ring import RingBuilder
        self._ports = dict(zip(SERVERS, _free_ports(len(SERVERS))))
        self.endpoint = f"http://127.0.0.1:{self._ports['proxy']}"
        (self.folder / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = quant\n[storage-policy:0]\nname = only\ndefault = yes\n")
        user = pwd.getpwuid(os.geteuid()).pw_name
        for name in SERVERS:
            body = PROXY if name == "proxy" else STORAGE.format(name=name)
            (self.folder / f"{name}.conf").write_text(
                f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {self._ports[name]}\nworkers = 0\nuser = {user}\n"
                f"swift_dir = {self.folder}\ndevices = {self.folder}/devices\nmount_check = false\n"
                f"log_level = INFO\nlog_address = {self.folder}/no-syslog\n{body}")
        (self.folder / "devices" / "d").mkdir(parents=True)
        for name in SERVERS[:3]:
            builder = RingBuilder(2, 1, 0)  # 4 partitions, 1 replica
            builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "device": "d",
                             "port": self._ports[name]})
            builder.rebalance()
            builder.get_ring().save(str(self.folder / f"{name}.ring.gz"))

    def request(self, method, path, body=b""):
        """A signed S3 request (AWS signature version 4); returns the body."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        host, digest = self.endpoint.split("//")[1], hashlib.sha256(body).hexdigest()
        path, _, query = path.partition("?")
        names = "host;x-amz-content-sha256;x-amz-date"
        canonical = "\n".join([method, path, query, f"host:{host}", f"x-amz-content-sha256:{digest}",
                               f"x-amz-date:{now}", "", names, digest])
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + self.secret_key).encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        request = urllib.request.Request(
            self.endpoint + path + ("?" + query if query else ""), data=body or None, method=method,
            headers={"x-amz-date": now, "x-amz-content-sha256": digest, "Authorization":
                     f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from None

    def object_files(self):
        """The files in which Swift keeps the bytes of objects."""
        return sorted((self.folder / "devices" / "d" / "objects").rglob("*.data"))


def main():
    if not SwiftServer.installed():
        print("swift is not installed", file=sys.stderr)
        return 77
    with SwiftServer() as swift:
        print("swift", swift.endpoint, swift.bucket, swift.access_key, swift.secret_key, swift.folder, flush=True)
        for line in sys.stdin:
            getattr(swift, {"kill": "kill", "restart": "restart"}[line.strip()])()
            print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
