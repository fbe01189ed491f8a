"""A TCP link that can be made worse while it carries traffic, in this process's event loop.

node ──→ Proxy ──→ decoder: bytes are cut off, swallowed, delayed, slowed down or changed; never reordered, as TCP
would not either.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_CHUNK_BYTES: Final = 4096
_CHUNKS_UNDER_WAY: Final = 64
"""Of one direction of a connection; beyond it the sender is held back."""


class Proxy:
    """Carries connections to its own port on to a server's. Made by `proxying`."""

    def __init__(self, server_port: int, seed: int = 0) -> None:
        self._server_port = server_port
        self._random = random.Random(seed)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self.port = 0
        self.delay_ms = 0.0
        """Of every chunk, each way."""
        self.jitter_ms = 0.0
        """Each chunk is up to so much later or earlier than `delay_ms`."""
        self.kbps: float | None = None
        """Rate of each direction of a connection, in kbit/s; None: as fast as it goes."""
        self.accepted = 0
        """Connections so far."""
        self.flipped = 0
        """Bits changed so far."""
        self._flips_due = 0

    def cut(self) -> None:
        """Reset every connection and refuse new ones until `mend`."""
        self._refusing = True
        for connection in tuple(self._connections):
            connection.reset()

    def mend(self) -> None:
        """Take connections again."""
        self._refusing = False

    def half_open(self) -> None:
        """Swallow all bytes of the present connections, both ways, for ever; neither end learns of it."""
        for connection in self._connections:
            connection.silent = True

    def flip(self, bits: int = 1) -> None:
        """Change one bit in each of the next chunks to the server."""
        self._flips_due += bits

    def spoilt(self, data: bytes) -> bytes:
        """The bytes as they reach the server."""
        if not self._flips_due:
            return data
        self._flips_due -= 1
        self.flipped += 1
        changed = bytearray(data)
        changed[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    def lateness_s(self) -> float:
        """How long the next chunk is under way."""
        return max(0.0, self.delay_ms + self._random.uniform(-self.jitter_ms, self.jitter_ms)) / 1000

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes it."""
        if self._refusing:
            _reset(writer)
            return
        self.accepted += 1
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:  # nobody there: the node learns it as it would without a proxy
            _reset(writer)
            return
        connection = _Connection(self, (reader, writer), upstream)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def close(self) -> None:
        """Reset every connection."""
        self.cut()
        await asyncio.gather(*self._tasks)


class _Connection:
    def __init__(
        self,
        proxy: Proxy,
        node: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._node = node
        self._server = server
        self.silent = False

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(self._node[0], self._server[1], up=True))
                group.create_task(self._carry(self._server[0], self._node[1], up=False))
        except* OSError:
            pass  # an end reset the connection: so does the other one learn it
        finally:
            self.reset()

    def reset(self) -> None:
        for _, writer in (self._node, self._server):
            _reset(writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_UNDER_WAY)
        delivery = asyncio.create_task(self._deliver(chunks, writer))
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(_CHUNK_BYTES):
                await chunks.put(
                    (loop.time() + self._proxy.lateness_s(), self._proxy.spoilt(data) if up else data)
                )
            await chunks.put((loop.time(), b""))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(
        self, chunks: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        free = loop.time()
        while True:
            due, data = await chunks.get()
            if not data:
                if not self.silent:
                    writer.write_eof()
                return
            kbps = self._proxy.kbps
            free = max(free, due) + (len(data) / (kbps * 125) if kbps else 0)
            await asyncio.sleep(max(0.0, free - loop.time()))
            if not self.silent:
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    if writer.transport.is_closing():
        return
    # Without lingering, closing sends RST and not FIN.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def proxying(server_port: int, seed: int = 0) -> AsyncIterator[Proxy]:
    """A proxy to 127.0.0.1:`server_port`, on a free port of its own."""
    proxy = Proxy(server_port, seed)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
