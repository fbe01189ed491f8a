"""Prometheus metrics of a service: a registry of its own, and the HTTP server that shows it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ndsc.codec.errors import NdscError
from ndsc.service.errors import ListenError
from ndsc.service.settings import split_address

SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds of histograms of times: from one run for a small frame to a long wait for side information."""

_READ_TIMEOUT_S: Final = 2.0


def new_registry() -> CollectorRegistry:
    """An empty registry but for the process's own metrics: memory, CPU time, file descriptors."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series a counter, which nobody reads
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class Readings(Collector):
    """Gauges that are read when someone looks, on the event loop: what they read belongs to it.

    Those that cannot be read are missing, all of them when the event loop does not answer in time; counters are
    shown all the same.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        registry.register(self)

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Show what `read` gives, unless it raises NdscError. Belongs to the event loop."""
        self._loop = asyncio.get_running_loop()
        self._gauges[name] = meaning, read

    def collect(self) -> Iterable[Metric]:
        """The gauges as they are now; in the thread of whoever looks."""
        if self._loop is None:
            return []
        answer: Future[list[Metric]] = Future()
        try:
            self._loop.call_soon_threadsafe(self._read, answer)
            return answer.result(_READ_TIMEOUT_S)
        except (RuntimeError, TimeoutError):  # the event loop has ended, or stands still
            return []

    def _read(self, answer: Future[list[Metric]]) -> None:
        gauges: list[Metric] = []
        try:
            for name, (meaning, read) in self._gauges.items():
                with suppress(NdscError):
                    gauges.append(GaugeMetricFamily(name, meaning, read()))
            answer.set_result(gauges)
        except Exception as error:
            answer.set_exception(error)


class MetricsServer:
    """Shows metrics over HTTP, in a thread of its own."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @classmethod
    def start(cls, listen: str, registry: CollectorRegistry) -> MetricsServer:
        """Serve at "host:port"; port 0 takes a free one. Raises ListenError."""
        try:
            host, port = split_address(listen)
            return cls(*start_http_server(port, host, registry))
        except (ValueError, OSError) as error:
            raise ListenError(
                f"cannot serve metrics at {listen}: {error}; choose another --metrics-listen"
            ) from error

    @property
    def port(self) -> int:
        """The port in use."""
        return self._server.server_port

    def close(self) -> None:
        """Answer no more; blocks for half a second at most."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
