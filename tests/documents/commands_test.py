# SPDX-License-Identifier: Apache-2.0
"""Runs every command of the documents: the sh blocks of each, in order, in one bash that stops at the first failure.

What is changed for it, and nothing else: ports and host names of the documents become free ports of this machine, absolute
folders (/tmp/…, /var/lib/…, /etc/quantd/…) a folder of the test's own, and HOME too. The shell starts at the top of the
source tree, as the documents say (a folder of links to it, so that results do not land in the tree). QUANT_SERVER names a
service with a worker, for documents that start none, and DATABASE, where a document has it, a PostgreSQL database.

  commands_test.py [--only PREFIX | --except PREFIX] [TEST…]      documents whose path begins so, or does not; default: all
  DOCUMENT=docs/x.md commands_test.py                             that one alone, with what it prints
"""
import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

from blocks import TOP, documents
from postgres_server import PostgresServer
from service import Service, tail

# The documents' addresses. One port of ours for each port that a document names.
_ADDRESS = re.compile(r"(?:(?<![\w.])(quantd\.example|127\.0\.0\.1|localhost)|(?<=\s)):([1-9]\d{3,4})\b")
_FOLDERS = re.compile(r"(?<![\w.}~])/(tmp|var/lib|var/log|var/cache|etc/quantd|srv|backup)(?=[/\s]|$)", re.M)
# Blocks that are not run: few, each with its reason.
_MOST_NOT_RUN = 16
_PATIENCE = 600


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Here:
    """Puts a document's commands on this machine: addresses, folders."""

    def __init__(self, root):
        self.root, self._ports = root, {}

    def address(self, match):
        port = self._ports.setdefault(match[2], None) or free_port()
        self._ports[match[2]] = port
        host = "localhost" if match[1] == "quantd.example" else match[1] or "127.0.0.1"
        return f"{host}:{port}"

    def adapt(self, text):
        text = _ADDRESS.sub(self.address, text).replace("quantd.example", "localhost")
        return _FOLDERS.sub(lambda m: f"{self.root}/{m[1]}", text)


def script(blocks, here):
    """One program of all blocks; before each it says on stderr where it is."""
    parts = ["set -euo pipefail", "shopt -s expand_aliases"]
    for block in blocks:
        if not block.reason:
            parts += [f"echo '==== line {block.line}' >&2", here.adapt(block.text)]
    return "\n".join(parts) + "\n"


def tree(folder):
    """A folder that looks like the top of the source tree; what is made in it stays in it."""
    for entry in TOP.iterdir():
        if entry.name not in (".git", "build"):
            (folder / entry.name).symlink_to(entry)
    (folder / "build").mkdir()
    if (build := TOP / "build").is_dir():
        for entry in build.iterdir():
            (folder / "build" / entry.name).symlink_to(entry)


class CommandsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.service = cls.enterClassContext(Service(workers=1))

    def run_document(self, name, blocks):
        with contextlib.ExitStack() as stack:
            more = {"QUANT_SERVER": self.service.server}
            if any("DATABASE" in b.text for b in blocks):
                more["DATABASE"] = stack.enter_context(PostgresServer(tcp=True)).new_database()
            self.run_blocks(name, blocks, more)

    def run_blocks(self, name, blocks, more):
        with tempfile.TemporaryDirectory(prefix="quant-doc.") as temporary:
            work = pathlib.Path(temporary)
            top, home = work / "top", work / "home"
            for folder in (top, home, *(work / f for f in ("tmp", "var/lib", "var/log/quantd", "var/cache", "etc/quantd", "srv",
                                                           "backup"))):
                folder.mkdir(parents=True)
            tree(top)
            program = work / "document.sh"
            program.write_text(script(blocks, Here(work)))
            bin_folder = os.environ.get("QUANT_BIN", str(TOP / "build/dev/bin"))
            environment = {k: v for k, v in os.environ.items() if not k.startswith("QUANT_") or k == "QUANT_SHARED"}
            environment.pop("PYTHONPATH", None)
            environment.update(PATH=f"{bin_folder}:{environment['PATH']}", HOME=str(home), QUANT_DEV_INSIDE="1",
                               PYTHONDONTWRITEBYTECODE="1", no_proxy="*", **more)
            output = work / "output"
            with open(output, "wb") as out:
                # A session of its own: everything the document starts ends with it.
                process = subprocess.Popen(["bash", program], cwd=top, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                           stderr=subprocess.STDOUT, start_new_session=True)
                try:
                    status = process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    status = f"not ended after {_PATIENCE} s"
                finally:
                    end_group(process.pid)
                    process.wait()
            text = output.read_text(errors="replace")
            if os.environ.get("DOCUMENT"):
                print(text)
            if status != 0:
                logs = "".join(f"\n---- end of {log.relative_to(work)}\n{tail(log, 15)}" for log in sorted(work.rglob("*.log"))
                               if top not in log.parents)
                self.fail(f"{name}: status {status}; the end of what it printed:\n" + "\n".join(text.splitlines()[-60:]) + logs)


def end_group(group):
    """Ends the processes of a session's group: asks, then kills."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-group, os.WNOHANG)
        os.killpg(group, signal.SIGKILL)


class BlocksTest(unittest.TestCase):

    def test_what_is_not_run_is_little_and_says_why(self):
        skipped = [(name, b) for name, found in documents().items() for b in found if b.reason]
        run = sum(not b.reason for found in documents().values() for b in found)
        print(f"{run} blocks are run, {len(skipped)} are not:")
        for name, block in skipped:
            print(f"  {name}:{block.line}: {block.reason}")
        self.assertLessEqual(len(skipped), _MOST_NOT_RUN)

    def test_no_command_has_a_placeholder(self):
        for name, found in documents().items():
            for block in found:
                if not block.reason:
                    self.assertNotRegex(block.text, r"\b[mdj]-…|…/|<[A-Z]+>", f"{name}:{block.line}")

    def test_addresses_and_folders_are_put_here(self):
        here = Here(pathlib.Path("/w"))
        text = here.adapt("quantd --listen :9000 --data /var/lib/quantd # http://127.0.0.1:9001/x\nexport QUANT_SERVER=quantd.example:9000\n")
        first, second, third = re.findall(r"(?:127\.0\.0\.1|localhost):(\d+)", text)
        self.assertEqual(first, third)
        self.assertNotEqual(first, second)
        self.assertIn("--data /w/var/lib/quantd", text)
        for text in ("examples/tmp/x 2026-11-26T12:34:56", '{"max_queued_jobs":1000}', "gguf:4096"):
            self.assertEqual(here.adapt(text), text)


def add_tests(args):
    """Makes a test of each document that is asked for; returns the arguments that are left."""
    only = os.environ.get("DOCUMENT", "")
    other = ""
    if args[:1] in (["--only"], ["--except"]):
        only, other = (args[1], "") if args[0] == "--only" else ("", args[1])
        args = args[2:]
    for name, found in documents().items():
        if any(not b.reason for b in found) and name.startswith(only) and not (other and name.startswith(other)):
            test = lambda self, name=name, found=found: self.run_document(name, found)  # noqa: E731
            setattr(CommandsTest, "test_" + re.sub(r"\W", "_", name), test)


    return args


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *add_tests(sys.argv[1:])], verbosity=2)
