# SPDX-License-Identifier: Apache-2.0
"""The history of a run: what each client asked, when, and what it was told. Clients append, the checker reads."""
import dataclasses
import json
import threading
import time

OK = "ok"            # acknowledged: the service must stand by it
FAIL = "fail"        # refused: it has not happened
UNKNOWN = "unknown"  # no answer: it may or may not have happened, now or later


@dataclasses.dataclass
class Operation:
    """One call of one client. `kind`: upload, submit, watch, cancel, retry, show, download."""
    client: str
    kind: str
    args: dict
    invoked: float  # seconds on the monotonic clock
    completed: float = float("inf")
    outcome: str = UNKNOWN
    value: object = None  # what it was told
    note: str = ""        # the error as shown, for people

    def line(self):
        return json.dumps(dataclasses.asdict(self), sort_keys=True, default=str)


class History:
    """Thread-safe. Every operation is there from its invocation on: one that never ends is UNKNOWN."""

    def __init__(self):
        self._operations, self._lock = [], threading.Lock()

    def invoke(self, client, kind, **args):
        operation = Operation(client, kind, args, time.monotonic())
        with self._lock:
            self._operations.append(operation)
        return operation

    def complete(self, operation, outcome, value=None, note=""):
        with self._lock:
            operation.value, operation.note, operation.completed = value, note, time.monotonic()
            operation.outcome = outcome

    def operations(self, kind=None, outcome=None):
        with self._lock:
            return [o for o in self._operations
                    if (kind is None or o.kind == kind) and (outcome is None or o.outcome == outcome)]

    def write(self, path):
        with open(path, "w", encoding="utf-8") as file:
            for operation in self.operations():
                file.write(operation.line() + "\n")
