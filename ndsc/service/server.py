"""A grpc.aio server with health, reflection and a clean end, as both services run it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from ndsc.service.authority import Authority
from ndsc.service.channel import (
    FLOW_OPTIONS,
    HANDSHAKE_TIMEOUT_MS,
    KEEPALIVE_TIME_MS,
    KEEPALIVE_TIMEOUT_MS,
    MIN_PING_INTERVAL_MS,
)
from ndsc.service.errors import ListenError, RefusedError, abort
from ndsc.service.images import max_image_bytes
from ndsc.service.settings import is_loopback
from ndsc.service.tls import Certificates, server_credentials
from ndsc.service.watched import Watched

_WATCHERS_GRACE_S: Final = 0.5
"""After the drain only health watchers and answers under way are left; they get this long."""

_LAST_STATUS_S: Final = 0.1
"""For a watcher's last status to leave before its call ends."""

_EXPIRY_CHECK_S: Final = 3600.0

_log = structlog.get_logger(__name__)


class HealthServicer(health.aio.HealthServicer):
    """grpc.health.v1 for whoever is known, whose watches end by themselves at shutdown.

    A watch never ends otherwise; grpc.aio then cancels it and prints a traceback.
    """

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self._authority = authority
        self._ending = asyncio.Event()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """See the health protocol."""
        await _authenticate(self._authority, context)
        return await super().Check(request, context)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """See the health protocol."""
        await _authenticate(self._authority, context)
        watch = asyncio.ensure_future(super().Watch(request, context))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((watch, ending), return_when=asyncio.FIRST_COMPLETED)
            if not watch.done():
                await asyncio.sleep(_LAST_STATUS_S)
        finally:
            for task in (watch, ending):
                task.cancel()
            await asyncio.gather(watch, ending, return_exceptions=True)

    def end_watches(self) -> None:
        """Let every watch send its last status and end."""
        self._ending.set()


class _ReflectionServicer(reflection.aio.ReflectionServicer):
    """Server reflection for whoever is known."""

    def __init__(self, service_names: Sequence[str], authority: Authority) -> None:
        super().__init__(service_names)
        self._authority = authority

    async def ServerReflectionInfo(  # type: ignore[override]  # noqa: N802  (the stubs know no generators)
        self,
        request_iterator: AsyncIterable[reflection_pb2.ServerReflectionRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        await _authenticate(self._authority, context)
        answers: Any = super().ServerReflectionInfo(request_iterator, context)
        async for answer in answers:
            yield answer


async def _authenticate(authority: Authority, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    try:
        authority.authenticate(context)
    except RefusedError as error:
        await abort(context, error.reason, str(error))


@dataclass(frozen=True)
class ServiceServer:
    """A started server."""

    grpc_server: grpc.aio.Server
    health: HealthServicer
    health_names: tuple[str, ...]
    """What health can be asked for; "" stands for the whole."""
    port: int
    clients_port: int | None = None
    """Of the second address, where people and tools show tokens."""
    expiry_watch: asyncio.Task[None] | None = None

    async def set_serving(self, serving: bool) -> None:
        """Set the health of all services, and of the whole (service name "")."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in self.health_names:
            await self.health.set(name, status)

    async def stop(self, grace_s: float | None = None) -> None:
        """Refuse new calls, wait up to `grace_s` seconds for running ones, then cancel them."""
        await self.health.enter_graceful_shutdown()
        self.health.end_watches()
        if self.expiry_watch is not None:
            self.expiry_watch.cancel()
        await self.grpc_server.stop(grace_s)


def max_message_bytes(max_pixels: int) -> int:
    """Largest message a server takes: two images of `max_pixels` pixels would not fit, one and a frame do."""
    return max_image_bytes(max_pixels) + (1 << 20)


async def create_server(
    *,
    listen: str,
    register: Callable[[grpc.aio.Server], None],
    service_names: Sequence[str],
    reflect: bool,
    health_names: Sequence[str] = (),
    max_receive_bytes: int = 1 << 20,
    certificates: Watched[Certificates] | None = None,
    authority: Authority | None = None,
    listen_clients: str | None = None,
) -> ServiceServer:
    """Start a server at "host:port" (port 0: a free one), with health still NOT_SERVING.

    `register` adds the servicers; `service_names` are their full names. `health_names` are further names that
    health knows, beside "" for the whole. With `certificates` all is TLS: `listen` then asks every peer for
    one of its own, and `listen_clients`, if given, takes peers without, whose tokens `authority` verifies.
    Raises ListenError when an address cannot be taken.
    """
    authority = authority or Authority()
    server = grpc.aio.server(
        options=(
            *FLOW_OPTIONS,
            ("grpc.so_reuseport", 0),  # else a second server takes the same port in silence
            ("grpc.max_receive_message_length", max_receive_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        )
    )
    checker = HealthServicer(authority)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    register(server)
    if reflect:
        names = (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            _ReflectionServicer(names, authority), server
        )
    try:
        port = _bind(server, listen, certificates, setting="listen")
        clients_port = None
        if listen_clients is not None:
            clients_port = _bind(
                server, listen_clients, certificates, setting="listen-clients", client_certificates=False
            )
    except ListenError:
        await server.stop(None)
        raise
    watch = None if certificates is None else asyncio.create_task(_watch_expiry(certificates))
    started = ServiceServer(server, checker, ("", *service_names, *health_names), port, clients_port, watch)
    await started.set_serving(False)
    await server.start()
    return started


def _bind(
    server: grpc.aio.Server,
    address: str,
    certificates: Watched[Certificates] | None,
    *,
    setting: str,
    client_certificates: bool = True,
) -> int:
    """Take an address and return its port. Raises ListenError."""
    try:
        if certificates is not None:
            credentials = server_credentials(certificates, require_client_certificate=client_certificates)
            return server.add_secure_port(address, credentials)
        if not is_loopback(address):
            _log.warning("other machines are served without encryption", listen=address)
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(
            f"cannot listen at {address}: the port is taken or the host is not this machine's; "
            f"choose another with --{setting}"
        ) from error


async def _watch_expiry(certificates: Watched[Certificates]) -> None:
    while True:
        warning = certificates.current().expiry_warning()
        if warning is not None:
            _log.warning("certificate to be renewed", problem=warning)
        await asyncio.sleep(_EXPIRY_CHECK_S)


def announce(word: str, **facts: object) -> None:
    """Print a line that programs read, such as `ready {"port": 50051}`, on standard output, at once."""
    print(word, json.dumps(facts), flush=True)


async def run_until_signal(
    server: ServiceServer,
    *,
    drain_s: float,
    on_drain: Callable[[], Awaitable[None]] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or `stop`, then end within `drain_s` seconds.

    The end: health says NOT_SERVING; `on_drain` finishes what is under way and is cancelled at `drain_s`; new
    calls are refused; what still runs is cancelled. A second signal cuts the drain short.
    """
    loop = asyncio.get_running_loop()
    ended = stop or asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        await ended.wait()
        _log.info("draining", at_most_s=drain_s)
        await server.set_serving(False)
        if on_drain is not None:
            hurried = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, hurried.set)
            await _first(on_drain(), hurried.wait(), timeout_s=max(0.0, drain_s - _WATCHERS_GRACE_S))
        await server.stop(min(_WATCHERS_GRACE_S, drain_s))
        _log.info("stopped")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _first(work: Awaitable[None], interruption: Awaitable[object], *, timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(interruption)]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] in done:
            await tasks[0]
        else:
            _log.warning("drain cut short")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
