# SPDX-License-Identifier: Apache-2.0
"""The channel to a quantd: address, TLS, token, and calls that are repeated when they were cut short."""
import os
import re

import grpc

from .errors import ConfigurationError, Error, from_rpc
from .retry import Backoff, is_worth_repeating

_LARGEST_MESSAGE = 64 << 20  # a report of a model with very many layers


def parse_address(text):
    """("host", port) of "HOST:PORT"; an empty host is this machine."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]*)):(\d{1,5})", text or "")
    if not match or not 0 < int(match[3]) < 65536:
        raise ConfigurationError(f"bad server address '{text}': write HOST:PORT, e.g. 127.0.0.1:9000 or [::1]:9000")
    return match[1] or match[2] or "127.0.0.1", int(match[3])


def is_loopback(host):
    return host in ("localhost", "::1") or re.fullmatch(r"127\.[0-9.]+", host) is not None


class Token:
    """The bearer token: a text, or the first line of a file, which is read again when it changes."""

    def __init__(self, text, path):
        self._path, self._time = path, None
        self._text = _checked(text, "the token") if text else ""
        if path:
            self._read()

    def _read(self):
        try:
            time = os.stat(self._path).st_mtime_ns
            if time == self._time:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                line = file.readline().rstrip("\r\n")
        except OSError as error:
            raise ConfigurationError(f"cannot read a token from {self._path}: {error.strerror}") from None
        if not line:
            raise ConfigurationError(f"cannot read a token from {self._path}: its first line is empty")
        self._text, self._time = _checked(line, f"the token in {self._path}"), time

    def metadata(self):
        if self._path:
            try:
                self._read()
            except ConfigurationError:
                if not self._text:
                    raise  # else: use the one read before
        return (("authorization", f"Bearer {self._text}"),) if self._text else ()


def _checked(token, where):
    if not re.fullmatch(r"[\x21-\x7e]{1,200}", token):
        raise ConfigurationError(f"{where} is no token: a blank, a character outside ASCII, or more than 200 bytes")
    return token


def _read(path, what):
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"cannot read the {what} {path}: {error.strerror}") from None


class Connection:
    """A channel and what goes with each call on it. Thread-safe."""

    def __init__(self, server, token, token_file, tls_ca, tls_cert, tls_key, insecure_tokens, call_deadline, patience):
        host, port = parse_address(server)
        self.server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._deadline, self._patience = call_deadline, patience
        self._token = Token(token, token_file)
        if bool(tls_cert) != bool(tls_key):
            raise ConfigurationError("tls_cert and tls_key belong together: give both or neither")
        if tls_cert and not tls_ca:
            raise ConfigurationError("a client certificate needs tls_ca, the authority of the server's certificate")
        tls = bool(tls_ca)
        if (token or token_file) and not tls and not is_loopback(host) and not insecure_tokens:
            raise ConfigurationError(f"the token would be sent to {host} in the clear, where others can read it: give tls_ca "
                                     "(QUANT_TLS_CA), or say insecure_tokens=True")
        options = [("grpc.max_receive_message_length", _LARGEST_MESSAGE),
                   ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 2000),
                   ("grpc.max_reconnect_backoff_ms", 2000),
                   # After a refused connection gRPC asks for the address again first, by default not within 30 s; and
                   # where it may not ask at once, only after min_reconnect_backoff.
                   ("grpc.dns_min_time_between_resolutions_ms", 100)]
        if is_loopback(host):
            options.append(("grpc.enable_http_proxy", 0))
        if tls:
            credentials = grpc.ssl_channel_credentials(_read(tls_ca, "certificate authority"),
                                                       _read(tls_key, "private key"), _read(tls_cert, "certificate"))
            self.channel = grpc.secure_channel(self.server, credentials, options)
        else:
            self.channel = grpc.insecure_channel(self.server, options)

    def close(self):
        self.channel.close()

    def metadata(self):
        return self._token.metadata()

    def once(self, method, request, timeout=None):
        """One unary call, not repeated."""
        try:
            return method(request, timeout=timeout or self._deadline, metadata=self.metadata())
        except grpc.RpcError as error:
            raise from_rpc(error, self.server) from None

    def call(self, method, request):
        """A unary call, repeated while the server is not reachable or asks to come again later. An Error has `failures`: the
        attempts that were cut short before."""
        backoff = Backoff(self._patience, longest=1.0)
        failures = 0
        while True:
            try:
                return self.once(method, request)
            except Error as error:
                error.failures = failures
                if not is_worth_repeating(error):
                    raise
                failures += 1
                backoff.wait(error)
