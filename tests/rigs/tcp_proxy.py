# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that a test can cut at any time."""

import contextlib
import re
import socket
import threading
from typing import Self
from urllib.parse import urlsplit, urlunsplit

COMMITTED = b"COMMIT\0"
"""Part of the server's response to a successful commit."""
_WRITES = re.compile(rb"insert into|update |delete from|_pg3_")
"""Part of a request that writes; a prepared statement counts as one, because its text is not sent again."""
_BACKEND_KEY = re.compile(rb"K\0\0\0\x0c.{8}", re.DOTALL)
"""PostgreSQL's message BackendKeyData: the number of the server's process and a secret."""
_OWN_KEY = b"K\0\0\0\x0c" + bytes(8)


def at_port(url: str, port: int) -> str:
    """The same URL with a loopback port as its address."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}"))


class Proxy:
    """Forwards connections from a loopback port of its own to the server of a URL while it is open."""

    def __init__(self, url: str) -> None:
        self.point_to(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = self.through(url)
        self.open = True
        self.responding = threading.Event()
        """Responses are held back while this is not set."""
        self.responding.set()
        self.swallow: bytes | None = None
        """The first response that contains this is not forwarded; the connection is cut instead."""
        self.swallows_commits = False
        """True: the COMMIT of a transaction that wrote is not forwarded; the connection stays, and nothing comes."""
        self.swallowed_commits = 0
        self.pooling = False
        """True: the proxy names itself to clients instead of the server's process, as poolers do."""
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def point_to(self, url: str) -> None:
        """Forward new connections to the server of this URL; those that exist stay with theirs."""
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)

    def through(self, url: str) -> str:
        """Another URL of the same server, for example of another database, through this proxy."""
        return at_port(url, self._listener.getsockname()[1])

    def cut(self) -> None:
        """Cut every connection; responses that are held back are lost."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        self.responding.set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                client.close()
                continue
            server = socket.create_connection(self._target)
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                still_open = self.open
                if still_open:
                    self._sockets |= {client, server}
            if not still_open:  # closed, and perhaps cut, since it was accepted
                client.close()
                server.close()
                continue
            for source, sink, from_server in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, from_server), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, from_server: bool) -> None:
        wrote = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not from_server:
                    wrote = bool(_WRITES.search(data)) or (wrote and b"BEGIN" not in data)
                    if wrote and self.swallows_commits and b"COMMIT" in data:
                        self.swallowed_commits += 1
                        continue
                if from_server and self.swallow and self.swallow in data:
                    self.swallow = None
                    break
                if from_server:
                    self.responding.wait()
                    if source not in self._sockets:
                        break
                if from_server and self.pooling:
                    data = _BACKEND_KEY.sub(_OWN_KEY, data)
                sink.sendall(data)
        with self._lock:
            self._sockets -= {source, sink}
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
