# SPDX-License-Identifier: Apache-2.0
"""A throwaway PostgreSQL on loopback, of Debian's package.

  with PostgresServer() as postgres:
      postgres.url            # postgres://postgres@127.0.0.1:PORT/quant; the database exists
      postgres.programs       # the folder of psql, pg_dump, …

It ends with the process that started it. FileNotFoundError where PostgreSQL is not installed.
"""
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time


class PostgresServer:

    def __enter__(self):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            raise FileNotFoundError("PostgreSQL is not installed: there is no initdb")
        self.programs = found[-1].parent
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quant-postgres."))
        # It does not run as root.
        self._as = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig", "KILL"]
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        try:
            self._run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "-D", self.folder / "data")
            self._log = open(self.folder / "log", "ab")
            self._server = subprocess.Popen(
                [*self._as, self.programs / "postgres", "-D", self.folder / "data", "-p", str(self.port), "-c",
                 "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}", "-c", "fsync=off"],
                cwd=self.folder, stdout=self._log, stderr=self._log)
            deadline = time.monotonic() + 60
            while True:
                try:
                    self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "quant")
                    return self
                except subprocess.CalledProcessError:
                    if time.monotonic() > deadline or self._server.poll() is not None:
                        raise
                    time.sleep(0.1)
        except BaseException:
            self.__exit__()
            raise

    def _run(self, program, *args):
        subprocess.run([*self._as, self.programs / program, *args], cwd=self.folder, check=True, capture_output=True)

    @property
    def url(self):
        return f"postgres://postgres@127.0.0.1:{self.port}/quant"

    def __exit__(self, *_):
        if getattr(self, "_server", None):
            self._server.terminate()  # fast enough: nothing here is worth a checkpoint
            try:
                self._server.wait(10)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
