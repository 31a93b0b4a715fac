# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy on loopback that misbehaves on request: what stands between a client or worker and the server."""
import contextlib
import random
import socket
import threading
import time

PASS = "pass"            # as if it were not there
CUT = "cut"              # connections are reset, new ones refused
HALF_OPEN = "half-open"  # connections stay and nothing comes through, in one direction or both; new ones as well
SLOW = "slow"            # so many bytes per second
REORDER = "reorder"      # each connection, and each piece of it, waits a time of its own: calls overtake each other

_PIECE = 16 << 10


class Proxy:
    """Forwards 127.0.0.1:`port` to one of `targets`, (host, port) each: as a balancer of connections does, to any of those
    that take it. Faults hold for the connections there are and for new ones, until heal(). Threads end with close()."""

    def __init__(self, targets, seed=0):
        self._targets, self._random = list(targets), random.Random(seed)
        self._lock, self._pairs, self._closed = threading.Lock(), set(), False
        self._mode, self._rate, self._delay, self._blocked = PASS, 0, 0.0, ()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    # ---- faults

    def cut(self):
        self._mode = CUT
        self.reset()

    def half_open(self, directions=("up", "down")):
        self._blocked = directions
        self._mode = HALF_OPEN

    def slow(self, bytes_per_second):
        self._rate = bytes_per_second
        self._mode = SLOW

    def reorder(self, longest):
        self._delay = longest  # seconds
        self._mode = REORDER

    def reset(self):
        """Resets the connections there are; new ones are not touched."""
        with self._lock:
            pairs, self._pairs = list(self._pairs), set()
        for pair in pairs:
            for s in pair:
                _reset(s)

    def heal(self):
        """Lets everything through again. Connections that lost bytes would hang for ever: they are reset."""
        broken = self._mode == HALF_OPEN
        self._mode = PASS
        if broken:
            self.reset()

    def close(self):
        self._closed = True
        _reset(self._listener)
        self.reset()

    # ---- forwarding

    def _accept(self):
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._mode == CUT:
                _reset(near)
                continue
            threading.Thread(target=self._open, args=(near,), daemon=True).start()

    def _open(self, near):
        with self._lock:
            order = self._random.sample(self._targets, len(self._targets))
        far = None
        for target in order:
            with contextlib.suppress(OSError):
                far = socket.create_connection(target, timeout=5)
                far.settimeout(None)
                break
        if far is None:
            _reset(near)
            return
        with self._lock:
            self._pairs.add((near, far))
            delay = self._random.random()
        if self._mode == CUT or self._closed:  # it came in between
            self.reset()
            return
        for s in (near, far):
            with contextlib.suppress(OSError):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._forward, args=(near, far, "up", delay), daemon=True).start()
        self._forward(far, near, "down", delay)

    def _forward(self, source, target, direction, delay):
        """`delay`: this connection's share of the longest wait, 0 to 1."""
        try:
            while data := source.recv(_PIECE):
                if self._mode == SLOW:
                    time.sleep(min(1.0, len(data) / self._rate))
                elif self._mode == REORDER:
                    with self._lock:
                        jitter = self._random.random()
                    time.sleep(self._delay * delay * jitter)
                if self._mode == HALF_OPEN and direction in self._blocked:
                    continue  # swallowed: the connection is of no more use
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            _reset(source)
            _reset(target)


def _reset(s):
    """Closes with RST, also when another thread waits in recv."""
    with contextlib.suppress(OSError):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with contextlib.suppress(OSError):
        s.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        s.close()
