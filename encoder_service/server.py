"""A camera node as a process: its own health checks, signals, and the lines it prints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

import structlog

from encoder_service.control import NodeServicer
from encoder_service.metrics import NodeMetrics
from encoder_service.node import Node
from encoder_service.settings import EncoderSettings
from encoder_service.uplink import SessionError
from ndsc.codec.errors import NdscError
from ndsc.service.authority import Authority
from ndsc.service.logs import configure_logs
from ndsc.service.metrics import MetricsServer
from ndsc.service.server import announce, create_server, run_until_signal
from ndsc.service.settings import fail, load_settings
from ndsc.service.tls import Certificates, watch_certificates
from ndsc.service.watched import Watched
from ndsc.v1 import node_pb2_grpc

SERVICE_NAMES: Final = ("ndsc.v1.NodeService",)

HEALTH_NAME: Final = "encoder"
"""Health service that is SERVING while a call is open, as is the empty name."""

_log = structlog.get_logger(__name__)


async def serve(settings: EncoderSettings) -> None:
    """Run a node until its source ends, it is told to stop, or the session cannot go on.

    Prints `ready {"port": …}` once the first call is open and `done {…}`, the node's account, at its end.
    Raises NdscError when the reason was neither a signal nor the source's end, or live frames were left
    unacknowledged.
    """
    metrics = NodeMetrics()
    metrics.build(
        version=version("ndsc"),
        rig=settings.rig,
        camera=settings.camera,
        role=settings.role,
        delivery=settings.delivery,
    )
    files = settings.certificate_files()
    certificates = None if files is None else watch_certificates(files)
    authority = Authority()
    node = Node(settings, metrics, certificates)
    metrics_server = _serve_metrics(settings, node, metrics, certificates)
    server = await create_server(
        listen=settings.listen,
        register=lambda server: node_pb2_grpc.add_NodeServiceServicer_to_server(
            NodeServicer(settings, node, authority), server
        ),
        service_names=SERVICE_NAMES,
        health_names=(HEALTH_NAME,),
        reflect=settings.reflection,
        certificates=certificates,
        authority=authority,
    )

    async def on_connection(connected: bool) -> None:
        await server.set_serving(connected)
        if connected and not node.announced:
            node.announced = True
            announce("ready", port=server.port)

    ended = asyncio.Event()
    work = asyncio.create_task(node.run(on_connection))
    work.add_done_callback(lambda _: ended.set())

    async def finish() -> None:
        node.stop()
        if not node.connected:
            work.cancel()
        await asyncio.wait({work})

    await run_until_signal(server, drain_s=settings.drain_seconds, on_drain=finish, stop=ended)
    work.cancel()
    await asyncio.wait({work})
    if metrics_server is not None:
        await asyncio.to_thread(metrics_server.close)
    if node.announced or node.account.captured:
        summary = node.summary()
        _log.info("done", **summary)
        announce("done", **summary)
        lost = node.account.in_flight
        if work.cancelled() and lost > 0 and settings.delivery == "live":
            raise SessionError(
                f"stopped within {settings.drain_seconds:g} s; the decoder at {settings.decoder} did not "
                f"acknowledge {lost} frames",
                retryable=False,
            )
    if not work.cancelled():
        work.result()


def _serve_metrics(
    settings: EncoderSettings, node: Node, metrics: NodeMetrics, certificates: Watched[Certificates] | None
) -> MetricsServer | None:
    if settings.metrics_listen is None:
        return None
    metrics.watch("connected", lambda: float(node.connected))
    metrics.watch("in_flight_frames", lambda: node.in_flight)
    metrics.watch("waiting_frames", lambda: node.waiting)
    metrics.watch("credit_frames", lambda: node.credit_frames)
    metrics.watch("spool_frames", lambda: node.spool_frames)
    metrics.watch("spool_bytes", lambda: node.spool_bytes)
    metrics.watch("spool_full", lambda: float(node.spool_full))
    metrics.watch("rate_level", lambda: node.rate_level)
    metrics.watch("target_bits_per_second", lambda: node.target_bps)
    metrics.watch("sent_bits_per_second", lambda: node.sent_bps)
    if certificates is not None:
        metrics.watch("certificate_expiry_timestamp_seconds", lambda: certificates.current().expires_s)
    return MetricsServer.start(settings.metrics_listen, metrics.registry)


def main(argv: Sequence[str]) -> None:
    """Entry of the process. Ends with status 0, 1 after one line that says why, 2 for wrong settings, or 130."""
    settings = load_settings(EncoderSettings, argv)
    configure_logs(level=settings.log_level, json_lines=settings.log_json)
    try:
        asyncio.run(serve(settings))
    except NdscError as error:
        fail(error)
    except KeyboardInterrupt:  # before the node listened to signals itself
        raise SystemExit(130) from None
