"""A TCP relay on loopback that counts bytes: what gRPC really puts on the wire."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread


class Relay:
    """Counts what passes between clients of `port` and a server."""

    def __init__(self, listener: socket.socket, server_port: int) -> None:
        self._listener = listener
        self._server_port = server_port
        self._sockets: list[socket.socket] = []
        self.port: int = listener.getsockname()[1]
        self.sent_bytes = 0
        """From clients to the server, TCP payload."""

    def accept(self) -> None:
        """Serve connections until the listener is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:  # nobody there: the client learns it as it would without a relay
                client.close()
                continue
            self._sockets += [client, server]
            for source, target, up in ((client, server, True), (server, client, False)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                Thread(target=self._pump, args=(source, target, up), daemon=True, name="relay").start()

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if up:
                    self.sent_bytes += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the other direction, or `close`, ended the connection

    def close(self) -> None:
        """Close every connection."""
        for end in self._sockets:
            end.close()


@contextmanager
def relaying(server_port: int) -> Iterator[Relay]:
    """A relay to 127.0.0.1:`server_port`, on a free port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(listener, server_port)
        Thread(target=relay.accept, daemon=True, name="relay accept").start()
        try:
            yield relay
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            relay.close()
