"""Follows a decoder and camera nodes, and tells browsers what happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from google.protobuf.json_format import MessageToDict

from ndsc.service.watched import KeyFileError
from ndsc.v1 import types_pb2
from ndsc.v1.catalog_pb2 import STREAM_KIND_CAMERA, ListBundlesRequest, ListStreamsRequest, StreamInfo
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from ndsc.v1.decode_pb2 import DecodeRequest, SubscribeRequest, SubscribeResponse
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub
from ndsc.v1.node_pb2 import GetNodeRequest, GetSourceRequest, Rate, SetRateRequest
from ndsc.v1.node_pb2_grpc import NodeServiceStub
from ndsc.v1.types_pb2 import Image
from ndsc.viewer.peer import Peer
from ndsc.viewer.settings import ViewerSettings
from ndsc.viewer.shelf import Shelf, ViewedFrame

Event = dict[str, Any]
"""What a browser is told, as JSON; its `type` says what it is."""

WAITING_EVENTS: Final = 256
"""Of one browser; one that takes no more is let go, and comes back by itself."""
POLL_S: Final = 1.0
RETRY_S: Final = 1.0
ASK_AGAIN_S: Final = 2.0
CALL_TIMEOUT_S: Final = 5.0

_OUTCOMES: Final = {
    types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED: "paired",
    types_pb2.SIDE_INFORMATION_OUTCOME_ABSENT: "absent",
    types_pb2.SIDE_INFORMATION_OUTCOME_NOT_REQUESTED: "not requested",
}

_log = structlog.get_logger(__name__)


@dataclass
class NodeState:
    """A camera node as it was last seen."""

    peer: Peer
    facts: Event | None = None
    """GetNodeResponse as JSON; None before the first answer, and while it does not answer."""
    error: str | None = None
    """Why there are no facts."""
    ask_again_s: float = 0.0
    """Before this moment of the monotonic clock it is not asked for source frames: it had none to show."""


class RigWatcher:
    """One rig: its frames in a `Shelf`, its nodes, and the browsers that look at it. Belongs to the event loop."""

    def __init__(self, settings: ViewerSettings) -> None:
        """Raises KeyFileError."""
        self._settings = settings
        files = settings.certificate_files()
        self._peer = Peer(
            settings.decoder, files, settings.token_file, name=settings.decoder_name, rig=settings.rig
        )
        self._browsers: set[asyncio.Queue[Event | None]] = set()
        self.shelf = Shelf()
        self.nodes = [NodeState(Peer(address, files)) for address in settings.node]
        self.decoder: Event = {"type": "decoder", "connected": False, "error": None, "rate_levels": None}
        self.streams: Event = {"type": "streams", "streams": []}
        self.arrived = asyncio.Event()
        """Set whenever a frame comes; who waits for it clears it."""

    @property
    def watched(self) -> bool:
        """Whether a browser looks."""
        return bool(self._browsers)

    async def run(self) -> None:
        """Follow decoder and nodes until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._list_streams())
                for state in self.nodes:
                    tasks.create_task(self._ask(state))
        finally:
            for browser in list(self._browsers):
                self._let_go(browser)
            await asyncio.gather(self._peer.close(), *(state.peer.close() for state in self.nodes))

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[asyncio.Queue[Event | None]]:
        """Events for one browser, beginning with how things stand; None ends them."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(WAITING_EVENTS)
        for event in (
            self.decoder,
            self.streams,
            self._nodes_event(),
            *map(frame_event, self.shelf.newest()),
        ):
            queue.put_nowait(event)
        self._browsers.add(queue)
        try:
            yield queue
        finally:
            self._browsers.discard(queue)

    def tell(self, event: Event) -> None:
        """Tell all browsers. Never waits."""
        for queue in list(self._browsers):
            if queue.qsize() >= WAITING_EVENTS - 1:
                self._let_go(queue)
            else:
                queue.put_nowait(event)

    def _let_go(self, queue: asyncio.Queue[Event | None]) -> None:
        self._browsers.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)

    async def without(self, frame: ViewedFrame) -> Image | None:
        """The frame decoded without side information. Raises grpc.aio.AioRpcError and KeyFileError."""
        return await _once(frame, "without", self._decode_without)

    async def source(self, frame: ViewedFrame) -> Image | None:
        """The frame as it was captured; None where no node offers it."""
        return await _once(frame, "source", self._fetch_source)

    async def _decode_without(self, frame: ViewedFrame) -> Image:
        request = DecodeRequest(frame=frame.message.compressed)
        stub = DecodeServiceStub(await self._peer.channel())
        return (await stub.Decode(request, timeout=CALL_TIMEOUT_S)).image

    async def _fetch_source(self, frame: ViewedFrame) -> Image | None:
        for state in self.nodes:
            if not (state.facts and state.facts["camera"] == frame.message.camera):
                continue
            if time.monotonic() < state.ask_again_s:
                continue
            request = GetSourceRequest(capture_time=frame.message.capture_time)
            try:
                stub = NodeServiceStub(await state.peer.channel())
                return (await stub.GetSource(request, timeout=CALL_TIMEOUT_S)).image
            except (grpc.aio.AioRpcError, KeyFileError):
                state.ask_again_s = time.monotonic() + ASK_AGAIN_S
        return None

    async def set_rate(self, camera: str, rate: Rate) -> bool:
        """Hold a camera's node to a rate. False when no node of that camera is known.

        Raises grpc.aio.AioRpcError and KeyFileError.
        """
        for state in self.nodes:
            if state.facts and state.facts["camera"] == camera:
                stub = NodeServiceStub(await state.peer.channel())
                await stub.SetRate(SetRateRequest(rate=rate), timeout=CALL_TIMEOUT_S)
                return True
        return False

    async def _follow(self) -> None:
        """Frames and side information, again and again when the decoder goes and comes."""
        request = SubscribeRequest(
            rig=self._settings.rig, include_compressed=True, include_side_information=True
        )
        while True:
            try:
                async for message in DecodeServiceStub(await self._peer.channel()).Subscribe(request):
                    await self._take(message)
                error = "the decoder ended the subscription"
            except grpc.aio.AioRpcError as failed:
                error = await self._peer.why(failed)
            except KeyFileError as failed:
                error = str(failed)
            if self.decoder["connected"] or self.decoder["error"] != error:
                _log.warning("no frames", decoder=self._settings.decoder, error=error)
            self.decoder |= {"connected": False, "error": error}
            self.tell(self.decoder)
            await asyncio.sleep(RETRY_S)

    async def _take(self, message: SubscribeResponse) -> None:
        match message.WhichOneof("message"):
            case "subscribed":
                catalog = CatalogServiceStub(await self._peer.channel())
                bundles = await catalog.ListBundles(ListBundlesRequest(), timeout=CALL_TIMEOUT_S)
                levels = {bundle.bitstream_id.hex(): bundle.rate_levels for bundle in bundles.bundles}
                self.decoder |= {"connected": True, "error": None, "rate_levels": levels}
                self.tell(self.decoder)
            case "side_information":
                self.shelf.put_side(message.side_information)
            case "frame":
                self.tell(frame_event(self.shelf.put(message.frame)))
                self.arrived.set()
            case "missed":
                self.tell({"type": "missed", "frames": message.missed.frames})

    async def _list_streams(self) -> None:
        request = ListStreamsRequest(rig=self._settings.rig)
        while True:
            try:
                catalog = CatalogServiceStub(await self._peer.channel())
                answer = await catalog.ListStreams(request, timeout=CALL_TIMEOUT_S)
            except (grpc.aio.AioRpcError, KeyFileError):
                pass  # `_follow` tells why
            else:
                self.streams = {"type": "streams", "streams": [_stream(one) for one in answer.streams]}
                self.tell(self.streams)
            await asyncio.sleep(POLL_S)

    async def _ask(self, state: NodeState) -> None:
        while True:
            error = None
            try:
                stub = NodeServiceStub(await state.peer.channel())
                answer = await stub.GetNode(GetNodeRequest(), timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as failed:
                error = await state.peer.why(failed)
            except KeyFileError as failed:
                error = str(failed)
            else:
                if answer.rig != self._settings.rig:
                    error = f"is a node of rig {answer.rig!r}, not {self._settings.rig!r}"
                state.facts = MessageToDict(
                    answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
            if error is not None:
                state.facts = None
                if error != state.error:
                    _log.warning("no node", node=state.peer.address, error=error)
            state.error = error
            self.tell(self._nodes_event())
            await asyncio.sleep(POLL_S)

    def _nodes_event(self) -> Event:
        nodes = [
            {"address": state.peer.address, "facts": state.facts, "error": state.error}
            for state in self.nodes
        ]
        return {"type": "nodes", "nodes": nodes}


async def _once(
    frame: ViewedFrame, kind: str, have: Callable[[ViewedFrame], Coroutine[Any, Any, Image | None]]
) -> Image | None:
    """A picture of a frame, had once however many ask for it; one that could not be had is tried again."""
    task = frame.others.get(kind)
    if task is None:
        task = frame.others[kind] = asyncio.create_task(have(frame))
    try:
        # One browser that leaves must not take the others' picture along.
        image = await asyncio.shield(task)
    except (grpc.aio.AioRpcError, KeyFileError):
        frame.others.pop(kind, None)
        raise
    if image is None:
        frame.others.pop(kind, None)
    return image


def _stream(stream: StreamInfo) -> Event:
    return {
        "kind": "camera" if stream.kind == STREAM_KIND_CAMERA else "side information",
        "name": stream.camera,
        "session": stream.session_id.hex()[:8],
        "open": stream.open,
        "received": stream.received,
        "decoded": stream.decoded,
        "failed": stream.failed,
        "dropped": stream.dropped,
    }


def frame_event(frame: ViewedFrame) -> Event:
    """What a browser is told of a frame."""
    message = frame.message
    use = message.side_information
    pixels = max(1, message.image.width * message.image.height)
    paired = use.outcome == types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED
    return {
        "type": "frame",
        "camera": message.camera,
        "number": frame.number,
        "sequence": message.sequence,
        "session": message.session_id.hex()[:8],
        "capture_time_ms": frame.time_ns // 1_000_000,
        "width": message.image.width,
        "height": message.image.height,
        "rate_level": message.rate_level,
        "bitstream": message.compressed.bitstream_id.hex(),
        "payload_bytes": message.payload_bytes,
        "payload_bpp": 8 * message.payload_bytes / pixels,
        "decode_ms": message.decode_us / 1000,
        "outcome": _OUTCOMES.get(use.outcome, "unknown"),
        "stream": use.stream if paired else None,
        "offset_ms": use.offset_us / 1000 if paired else None,
    }
