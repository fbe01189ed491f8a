"""The impairments do what they say, on an echo server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from time import monotonic
from typing import TypeAlias

import pytest

from tests.robustness.proxy import Proxy, proxying

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect: TypeAlias = Callable[[], Awaitable[Streams]]


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0)
    async with server, proxying(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[Connect]:
    """`await connect()` → streams through the proxy, closed at the test's end."""
    async with AsyncExitStack() as stack:

        async def connect() -> Streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            stack.callback(writer.close)
            return reader, writer

        yield connect


async def _echoed(streams: Streams, data: bytes, timeout_s: float = 5.0) -> bytes:
    reader, writer = streams
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), timeout_s)


async def test_carries_what_it_gets(proxy: Proxy, connect: Connect) -> None:
    streams = await connect()
    data = bytes(range(256)) * 1000
    assert await _echoed(streams, data) == data
    streams[1].write_eof()
    assert await streams[0].read() == b"", "the end comes through"
    assert proxy.accepted == 1


async def test_cut_resets_and_refuses_until_mended(proxy: Proxy, connect: Connect) -> None:
    streams = await connect()
    await _echoed(streams, b"before")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await streams[0].read()
    reader, _ = await connect()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    proxy.mend()
    assert await _echoed(await connect(), b"after") == b"after"


async def test_half_open_swallows_bytes_and_tells_no_one(proxy: Proxy, connect: Connect) -> None:
    streams = await connect()
    await _echoed(streams, b"before")
    proxy.half_open()
    with pytest.raises(TimeoutError):
        await _echoed(streams, b"lost", timeout_s=0.2)
    assert await _echoed(await connect(), b"new") == b"new", "later connections work"


async def test_delay_and_jitter(proxy: Proxy, connect: Connect) -> None:
    streams = await connect()
    proxy.delay_ms, proxy.jitter_ms = 50.0, 20.0
    sent = monotonic()
    await _echoed(streams, b"late")
    assert 0.06 <= monotonic() - sent < 2.0


async def test_rate(proxy: Proxy, connect: Connect) -> None:
    streams = await connect()
    proxy.kbps = 800.0
    sent = monotonic()
    await _echoed(streams, bytes(20_000))  # 0.2 s at 100 kB/s, and the last chunk back
    assert 0.2 <= monotonic() - sent < 2.0


async def test_flip_changes_one_bit_once(proxy: Proxy, connect: Connect) -> None:
    streams = await connect()
    proxy.flip()
    echoed = await _echoed(streams, bytes(100))
    assert sum(byte.bit_count() for byte in echoed) == 1
    assert proxy.flipped == 1
    assert await _echoed(streams, bytes(100)) == bytes(100)
