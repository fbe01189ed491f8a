"""Follows a decoder and camera nodes, and tells browsers what happens."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from google.protobuf.json_format import MessageToDict

from ndsc.service.channel import open_channel
from ndsc.service.errors import describe
from ndsc.v1 import types_pb2
from ndsc.v1.catalog_pb2 import STREAM_KIND_CAMERA, ListBundlesRequest, ListStreamsRequest
from ndsc.v1.catalog_pb2_grpc import CatalogServiceStub
from ndsc.v1.decode_pb2 import DecodeRequest, SubscribeRequest, SubscribeResponse
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub
from ndsc.v1.node_pb2 import GetNodeRequest, GetSourceRequest, Rate, SetRateRequest
from ndsc.v1.node_pb2_grpc import NodeServiceStub
from ndsc.v1.types_pb2 import Image
from ndsc.viewer.settings import ViewerSettings
from ndsc.viewer.shelf import Shelf, ViewedFrame

Event = dict[str, Any]
"""What a browser is told, as JSON; its `type` says what it is."""

WAITING_EVENTS: Final = 256
"""Of one browser; one that takes no more is let go, and comes back by itself."""
POLL_S: Final = 1.0
RETRY_S: Final = 1.0
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

    address: str
    facts: Event | None = None
    """GetNodeResponse as JSON; None before the first answer, and while it does not answer."""
    offers: bool = True
    """Whether it showed source frames when last asked."""


class RigWatcher:
    """One rig: its frames in a `Shelf`, its nodes, and the browsers that look at it. Belongs to the event loop."""

    def __init__(self, settings: ViewerSettings) -> None:
        """Raises KeyFileError."""
        self._settings = settings
        self._certificates = settings.certificates()
        self._token = settings.token()
        self._browsers: set[asyncio.Queue[Event | None]] = set()
        self._channels: list[grpc.aio.Channel] = []
        self.shelf = Shelf()
        self.nodes = [NodeState(address) for address in settings.node]
        self.decoder: Event = {
            "type": "decoder",
            "viewer": secrets.token_hex(4),  # numbers of frames begin anew with each process
            "connected": False,
            "error": None,
            "rate_levels": None,
        }
        self.streams: Event = {"type": "streams", "streams": []}
        self.arrived = asyncio.Event()
        """Set whenever a frame comes; who waits for it clears it."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow decoder and nodes until the context ends."""
        channel = self._open(self._settings.decoder, self._token)
        self._decode, self._catalog = DecodeServiceStub(channel), CatalogServiceStub(channel)
        self._stubs = {state.address: NodeServiceStub(self._open(state.address)) for state in self.nodes}
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._list_streams())]
        tasks += [asyncio.create_task(self._ask(state)) for state in self.nodes]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for browser in list(self._browsers):
                self._let_go(browser)
            await asyncio.gather(*(channel.close() for channel in self._channels))

    def _open(self, address: str, token: str | None = None) -> grpc.aio.Channel:
        self._channels.append(open_channel(address, self._certificates, token))
        return self._channels[-1]

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

    async def without(self, frame: ViewedFrame) -> Image:
        """The frame decoded without side information. Raises grpc.aio.AioRpcError."""
        if "without" not in frame.others:
            request = DecodeRequest(frame=frame.message.compressed)
            answer = await self._decode.Decode(request, timeout=CALL_TIMEOUT_S)
            frame.others["without"] = answer.image
        return frame.others["without"]

    async def source(self, frame: ViewedFrame) -> Image | None:
        """The frame as it was captured; None where no node offers it."""
        if "source" in frame.others:
            return frame.others["source"]
        for state in self.nodes:
            if not (state.facts and state.offers and state.facts["camera"] == frame.message.camera):
                continue
            request = GetSourceRequest(capture_time=frame.message.capture_time)
            try:
                answer = await self._stubs[state.address].GetSource(request, timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                continue
            frame.others["source"] = answer.image
            return answer.image
        return None

    async def set_rate(self, camera: str, rate: Rate) -> bool:
        """Hold a camera's node to a rate. False when no node of that camera is known.

        Raises grpc.aio.AioRpcError.
        """
        for state in self.nodes:
            if state.facts and state.facts["camera"] == camera:
                await self._stubs[state.address].SetRate(SetRateRequest(rate=rate), timeout=CALL_TIMEOUT_S)
                return True
        return False

    async def _follow(self) -> None:
        """Frames and side information, again and again when the decoder goes and comes."""
        request = SubscribeRequest(
            rig=self._settings.rig, include_compressed=True, include_side_information=True
        )
        while True:
            try:
                async for message in self._decode.Subscribe(request):
                    await self._take(message)
                error = "the decoder ended the subscription"
            except grpc.aio.AioRpcError as failed:
                _, reason, text = describe(failed)
                error = f"{text} ({reason})" if reason else text
            if self.decoder["connected"] or self.decoder["error"] != error:
                _log.warning("no frames", decoder=self._settings.decoder, error=error)
            self.decoder |= {"connected": False, "error": error}
            self.tell(self.decoder)
            await asyncio.sleep(RETRY_S)

    async def _take(self, message: SubscribeResponse) -> None:
        match message.WhichOneof("message"):
            case "subscribed":
                bundles = await self._catalog.ListBundles(ListBundlesRequest(), timeout=CALL_TIMEOUT_S)
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
        while True:
            try:
                answer = await self._catalog.ListStreams(
                    ListStreamsRequest(rig=self._settings.rig), timeout=CALL_TIMEOUT_S
                )
            except grpc.aio.AioRpcError:
                pass  # `_follow` tells why
            else:
                streams = [
                    {
                        "kind": "camera" if stream.kind == STREAM_KIND_CAMERA else "side information",
                        "name": stream.camera,
                        "session": stream.session_id.hex()[:8],
                        "open": stream.open,
                        "received": stream.received,
                        "decoded": stream.decoded,
                        "failed": stream.failed,
                        "dropped": stream.dropped,
                    }
                    for stream in answer.streams
                ]
                self.streams = {"type": "streams", "streams": streams}
                self.tell(self.streams)
            await asyncio.sleep(POLL_S)

    async def _ask(self, state: NodeState) -> None:
        while True:
            try:
                answer = await self._stubs[state.address].GetNode(GetNodeRequest(), timeout=CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                state.facts = None
            else:
                facts = MessageToDict(
                    answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
                state.facts = facts if answer.rig == self._settings.rig else None
            self.tell(self._nodes_event())
            await asyncio.sleep(POLL_S)

    def _nodes_event(self) -> Event:
        nodes = [{"address": state.address, "facts": state.facts} for state in self.nodes]
        return {"type": "nodes", "nodes": nodes}


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
