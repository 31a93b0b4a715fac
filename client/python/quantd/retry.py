# SPDX-License-Identifier: Apache-2.0
"""When and how long to try again: the rules of the C++ client (common/transfer/retry.h)."""
import random
import time

_LONGEST_SERVER_WAIT = 30.0
_TRANSPORT = ("RST_STREAM", "Stream removed", "GOAWAY")


def is_worth_repeating(error):
    """True where nothing was done: the server is not reachable, or a limit says when to come again."""
    return error.code == "UNAVAILABLE" or (error.code == "RESOURCE_EXHAUSTED" and error.retry_after > 0)


def is_broken_stream(error):
    """True when a stream broke and asking how far it got may mend it."""
    if is_worth_repeating(error) or error.code in ("DEADLINE_EXCEEDED", "CANCELLED"):
        return True
    # What gRPC itself says when HTTP/2 resets a stream; an error of the service carries a reason.
    return error.code in ("INTERNAL", "UNKNOWN") and not error.reason and any(t in str(error) for t in _TRANSPORT)


class Backoff:
    """The waits between the attempts of one piece of work."""

    def __init__(self, give_up_after, longest=5.0, first=0.1, sleep=time.sleep):
        self._give_up_after, self._longest, self._first, self._sleep = give_up_after, longest, first, sleep
        self._failures, self._since = 0, 0.0

    def progress(self):
        """The work got further: the next failure starts from the first wait again."""
        self._failures = 0

    def wait(self, error):
        """Waits before another attempt; raises `error` once give_up_after seconds have passed without progress."""
        now = time.monotonic()
        if self._failures == 0:
            self._since = now
        if now - self._since >= self._give_up_after:
            error.args = (f"{error} (gave up after {self._failures + 1} attempts in {now - self._since:.0f} s)",)
            raise error
        wait = min(self._first * 2 ** min(self._failures, 30), self._longest) * random.uniform(0.75, 1.25)
        self._failures += 1
        self._sleep(max(wait, min(error.retry_after, _LONGEST_SERVER_WAIT)))
