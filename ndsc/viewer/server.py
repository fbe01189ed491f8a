"""The viewer as a process: HTTP for the page, its pictures and its events."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from aiohttp import web

from ndsc.codec.errors import NdscError
from ndsc.service.errors import ListenError, describe
from ndsc.service.images import from_image, to_image
from ndsc.service.logs import configure_logs
from ndsc.service.server import announce
from ndsc.service.settings import fail, is_loopback, load_settings, split_address
from ndsc.service.watched import KeyFileError
from ndsc.v1 import types_pb2
from ndsc.v1.node_pb2 import FollowLink, Rate
from ndsc.v1.types_pb2 import Image
from ndsc.viewer.quality import QualityMeter
from ndsc.viewer.rig import RigWatcher
from ndsc.viewer.settings import ViewerSettings

_PAGE: Final = Path(__file__).parent / "page"
_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}
_TYPES: Final = {types_pb2.IMAGE_FORMAT_PNG: "image/png", types_pb2.IMAGE_FORMAT_JPEG: "image/jpeg"}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_WANTED: Final = "give one of rate_level, target_kbps and follow_link"
SILENCE_S: Final = 15.0
"""A comment keeps the events' connection alive through proxies."""


class ViewerServer:
    """Answers browsers."""

    def __init__(self, rig: RigWatcher, meter: QualityMeter, hosts: frozenset[str] | None) -> None:
        """`hosts`: names that the page is reached by, besides this machine's own; None takes any."""
        self._rig = rig
        self._meter = meter
        self._hosts = hosts

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(middlewares=[_with_headers, self._checked], client_max_size=1 << 14)
        for path in _FILES:
            application.router.add_get(path, self.file)
        application.router.add_get("/api/events", self.events)
        application.router.add_get("/api/frames/{camera}/{number:\\d{1,16}}/{kind}", self.picture)
        application.router.add_post("/api/cameras/{camera}/rate", self.rate)
        return application

    @web.middleware
    async def _checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """A page elsewhere may let its own name point here, and would then read the cameras (DNS rebinding)."""
        name = request.url.host or ""
        if not (self._hosts is None or name in self._hosts or _is_this_machine(name)):
            raise web.HTTPForbidden(
                text=f"this page is not reached by the name {name!r}: use localhost, or start it with --host"
            )
        response: web.StreamResponse = await handler(request)
        return response

    async def file(self, request: web.Request) -> web.Response:
        """A file of the page."""
        name, kind = _FILES[request.path]
        text = await asyncio.to_thread((_PAGE / name).read_text)
        return web.Response(text=text, content_type=kind, headers={"Cache-Control": "no-cache"})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: how things stand, and all that happens from now on."""
        response = web.StreamResponse(headers={"Cache-Control": "no-store", **_HEADERS})
        response.content_type = "text/event-stream"
        await response.prepare(request)
        # A browser that has left is no error; nobody else is told.
        with suppress(ConnectionResetError):
            await self._tell(response)
        return response

    async def _tell(self, response: web.StreamResponse) -> None:
        async with self._rig.browser() as queue:
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), SILENCE_S)
                except TimeoutError:
                    await response.write(b": still here\n\n")
                    continue
                if event is None:
                    return
                await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def picture(self, request: web.Request) -> web.Response:
        """A picture of a frame: decoded, without (side information), side, or source."""
        camera, number, kind = (request.match_info[name] for name in ("camera", "number", "kind"))
        frame = self._rig.shelf.get(camera, int(number))
        image: Image | None = None
        if frame is not None:
            match kind:
                case "decoded":
                    image = frame.message.image
                case "side":
                    image = self._rig.shelf.side_of(frame)
                case "source":
                    image = await self._rig.source(frame)
                case "without":
                    self._meter.compare()
                    try:
                        image = await self._rig.without(frame)
                    except (grpc.aio.AioRpcError, KeyFileError) as error:
                        raise _failed(error) from error
        if image is None:
            raise web.HTTPNotFound(text=f"no picture {kind!r} of frame {number} of camera {camera!r} is held")
        if image.format not in _TYPES:  # raw, which browsers do not show
            image = await asyncio.to_thread(_as_png, image)
        # A number is never used again, so a browser may keep what it has.
        headers = {"Cache-Control": "private, max-age=60, immutable"}
        return web.Response(body=image.data, content_type=_TYPES[image.format], headers=headers)

    async def rate(self, request: web.Request) -> web.Response:
        """Hold a camera to a rate: {"rate_level": n}, {"target_kbps": x} or {"follow_link": true}."""
        if request.content_type != "application/json":  # what no page of another origin may send
            raise web.HTTPUnsupportedMediaType(text="send JSON, as application/json")
        try:
            rate = _rate(json.loads(await request.text()))
        except (ValueError, TypeError, OverflowError, RecursionError, LookupError) as error:
            raise web.HTTPBadRequest(text=_WANTED) from error
        camera = request.match_info["camera"]
        try:
            known = await self._rig.set_rate(camera, rate)
        except (grpc.aio.AioRpcError, KeyFileError) as error:
            raise _failed(error) from error
        if not known:
            raise web.HTTPNotFound(text=f"no node of camera {camera!r} answers; give its address with --node")
        return web.json_response({})


def _is_this_machine(name: str) -> bool:
    return is_loopback(f"[{name}]:0" if ":" in name else f"{name}:0")


def _rate(wanted: Any) -> Rate:
    """Raises ValueError, TypeError or OverflowError."""
    if not isinstance(wanted, dict) or len(wanted) != 1:
        raise ValueError(_WANTED)
    match next(iter(wanted.items())):
        case ("rate_level", int(level)) if not isinstance(level, bool) and 0 <= level < 1 << 32:
            return Rate(rate_level=level)
        case ("target_kbps", (int() | float()) as kbps) if not isinstance(kbps, bool):
            return Rate(target_kbps=kbps)
        case ("follow_link", True):
            return Rate(follow_link=FollowLink())
    raise ValueError(_WANTED)


def _failed(error: grpc.aio.AioRpcError | KeyFileError) -> web.HTTPException:
    """What a browser is told when a service refuses, or does not answer."""
    if isinstance(error, KeyFileError):
        return web.HTTPServiceUnavailable(text=str(error))
    code, _, text = describe(error)
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED):
        return web.HTTPBadRequest(text=text)
    return web.HTTPServiceUnavailable(text=text or code.name)


def _as_png(image: Image) -> Image:
    pixels = from_image(image, max_pixels=image.width * image.height)
    return to_image(pixels, types_pb2.IMAGE_FORMAT_PNG)


@web.middleware
async def _with_headers(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        error.headers.update(_HEADERS)
        raise
    if not response.prepared:
        response.headers.update(_HEADERS)
    return response


@asynccontextmanager
async def running(settings: ViewerSettings) -> AsyncIterator[tuple[int, list[asyncio.Task[None]]]]:
    """Serve; gives the port once it can be reached, and the work, which never ends by itself.

    Raises KeyFileError and ListenError.
    """
    rig = RigWatcher(settings)
    meter = QualityMeter(rig)
    host, port = split_address(settings.listen)
    hosts = frozenset(settings.host) if settings.host or is_loopback(settings.listen) else None
    server = ViewerServer(rig, meter, hosts)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    work = [asyncio.create_task(rig.run()), asyncio.create_task(meter.run())]
    try:
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ListenError(f"cannot listen at {settings.listen}: {error.strerror or error}") from error
        yield runner.addresses[0][1], work
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await runner.cleanup()


async def serve(settings: ViewerSettings) -> None:
    """Serve until SIGINT or SIGTERM. Prints `ready {"port": …}`. Raises NdscError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as (port, work):
        announce("ready", port=port)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, *work], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in work:
            if task.done():  # a fault of this program: better no page than one that stands still
                task.result()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: errors raised on purpose become one line and exit code 1."""
    settings = load_settings(ViewerSettings, sys.argv[1:] if argv is None else argv)
    configure_logs(level=settings.log_level, json_lines=settings.log_json)
    try:
        asyncio.run(serve(settings))
    except NdscError as error:
        fail(error)
