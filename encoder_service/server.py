"""A camera node as a process: its own health checks, signals, and the lines it prints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from encoder_service.camera import CameraRole
from encoder_service.node import Node, Role
from encoder_service.settings import EncoderSettings
from encoder_service.side import SideInformationRole
from encoder_service.uplink import SessionError
from ndsc.codec.errors import NdscError
from ndsc.service.logs import configure_logs
from ndsc.service.server import announce, create_server, run_until_signal
from ndsc.service.settings import fail, load_settings

HEALTH_NAME: Final = "encoder"
"""Health service that is SERVING while the session is open, as is the empty name."""

_ROLES: Final[dict[str, Callable[[EncoderSettings], Role]]] = {
    "camera": CameraRole,
    "side-information": SideInformationRole,
}

_log = structlog.get_logger(__name__)


async def serve(settings: EncoderSettings) -> None:
    """Run a node until its source ends, it is told to stop, or the session breaks.

    Prints `ready {"port": …}` once the session is open and `done {…}`, the session's account, at its end.
    Raises NdscError when the reason was neither a signal nor the source's end, or frames were left
    unacknowledged.
    """
    server = await create_server(
        listen=settings.listen,
        register=lambda _: None,
        service_names=(),
        health_names=(HEALTH_NAME,),
        reflect=settings.reflection,
    )
    node = Node(settings, _ROLES[settings.role])

    async def on_streaming() -> None:
        await server.set_serving(True)
        announce("ready", port=server.port)

    ended = asyncio.Event()
    work = asyncio.create_task(node.run(on_streaming))
    work.add_done_callback(lambda _: ended.set())

    async def finish() -> None:
        if not node.streaming:
            work.cancel()
        node.stop()
        await asyncio.wait({work})

    await run_until_signal(server, drain_s=settings.drain_seconds, on_drain=finish, stop=ended)
    work.cancel()
    await asyncio.wait({work})
    if node.streaming:
        summary = node.summary()
        _log.info("done", **summary)
        announce("done", **summary)
        if work.cancelled() and summary["sent"] > summary["acked"]:
            raise SessionError(
                f"stopped after {settings.drain_seconds:g} s; the decoder at {settings.decoder} did not "
                f"acknowledge {summary['sent'] - summary['acked']} frames"
            )
    if not work.cancelled():
        work.result()


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
