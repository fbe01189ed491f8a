"""Shows how a running node is and what it sees, and sets its rate."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc.aio

from encoder_service.node import Node
from encoder_service.rate_control import FixedLevel, FollowLink, Rate, TargetRate
from encoder_service.role import DELIVERIES
from encoder_service.settings import EncoderSettings
from ndsc.service.authority import Authority
from ndsc.service.errors import (
    FIELD_INVALID,
    NOT_READY,
    OVERLOADED,
    SOURCE_NOT_FOUND,
    RefusedError,
    abort,
)
from ndsc.service.images import answer_format, to_image
from ndsc.service.timestamps import from_timestamp, to_timestamp
from ndsc.sources import SourceFrame
from ndsc.v1 import node_pb2
from ndsc.v1.node_pb2 import (
    GetNodeRequest,
    GetNodeResponse,
    GetSourceRequest,
    GetSourceResponse,
    SetRateRequest,
    SetRateResponse,
)
from ndsc.v1.node_pb2_grpc import NodeServiceServicer
from ndsc.v1.types_pb2 import Image, ImageFormat

MAX_ASKED: Final = 4
"""Source frames that are coded or wait to be."""


class NodeServicer(NodeServiceServicer):
    """GetNode, SetRate and GetSource."""

    def __init__(self, settings: EncoderSettings, node: Node, authority: Authority) -> None:
        self._settings = settings
        self._node = node
        self._authority = authority
        # One at a time and in a thread of its own: people who look must not keep frames from being coded.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="source")
        self._asked = 0

    async def GetNode(  # noqa: N802
        self, request: GetNodeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> GetNodeResponse:
        """See the contract."""
        try:
            self._authority.check(context, role="client", rig=self._settings.rig)
        except RefusedError as error:
            await abort(context, error.reason, str(error))
        node, account, rate = self._node, self._node.account, self._node.rate
        return GetNodeResponse(
            rig=self._settings.rig,
            camera=self._settings.camera,
            session_id=node.session_id,
            delivery=DELIVERIES[self._settings.delivery],
            connected=node.connected,
            captured=account.captured,
            sent=account.sent,
            acknowledged=account.acked,
            failed=account.failed,
            dropped=account.dropped,
            unknown=account.unknown,
            waiting=node.waiting,
            rate=None if rate is None else _to_message(rate.rate),
            sent_kbps=0.0 if rate is None else rate.sent_kbps(time.monotonic()),
        )

    async def SetRate(  # noqa: N802
        self, request: SetRateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> SetRateResponse:
        """See the contract."""
        try:
            self._authority.check(context, role="client", rig=self._settings.rig)
            if self._node.rate is None:
                raise RefusedError(NOT_READY, "the node is starting; try again when it is healthy")
            try:
                self._node.rate.rate = _from_message(request.rate)
            except ValueError as error:
                raise RefusedError(FIELD_INVALID, str(error)) from error
        except RefusedError as error:
            await abort(context, error.reason, str(error))
        return SetRateResponse()

    async def GetSource(  # noqa: N802
        self, request: GetSourceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> GetSourceResponse:
        """See the contract."""
        try:
            self._authority.check(context, role="client", rig=self._settings.rig)
            image_format = answer_format(request.format)
            at_us = from_timestamp(request.capture_time) if request.HasField("capture_time") else None
            frame = self._node.offered.get(at_us)
            if frame is None:
                raise RefusedError(
                    SOURCE_NOT_FOUND,
                    f"the node offers its last {self._settings.offer_sources} frames, and that is none of them"
                    if self._settings.offer_sources
                    else "the node offers no frames of its own",
                )
            image = await self._shown(frame, image_format)
        except RefusedError as error:
            await abort(context, error.reason, str(error))
        return GetSourceResponse(capture_time=to_timestamp(frame.capture_time_us), image=image)

    async def _shown(self, frame: SourceFrame, image_format: ImageFormat) -> Image:
        """Raises RefusedError (OVERLOADED)."""
        if self._asked >= MAX_ASKED:
            raise RefusedError(OVERLOADED, f"{self._asked} source frames are being shown; ask again later")
        self._asked += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, to_image, frame.image, image_format)
        finally:
            self._asked -= 1


def _to_message(rate: Rate) -> node_pb2.Rate:
    match rate:
        case FixedLevel(level):
            return node_pb2.Rate(rate_level=level)
        case TargetRate(kbps):
            return node_pb2.Rate(target_kbps=kbps)
        case FollowLink():
            return node_pb2.Rate(follow_link=node_pb2.FollowLink())


def _from_message(message: node_pb2.Rate) -> Rate:
    """Raises ValueError when none is stated."""
    match message.WhichOneof("kind"):
        case "rate_level":
            return FixedLevel(message.rate_level)
        case "target_kbps":
            return TargetRate(message.target_kbps)
        case "follow_link":
            return FollowLink()
        case _:
            raise ValueError("rate must be a rate_level, a target_kbps or follow_link")
