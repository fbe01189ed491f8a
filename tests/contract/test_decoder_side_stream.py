"""StreamSideInformation: the handshake, bad frames, and the archive."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from ndsc.codec.frames import Frame
from ndsc.service.images import to_image
from ndsc.service.timestamps import to_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.side_information_pb2 import SideInformationFrame, StreamSideInformationRequest
from ndsc.v1.types_pb2 import Geometry
from tests.contract.decoder_node import (
    EPOCH_US,
    SideNode,
    side_open,
    streams,
)


async def test_bad_side_information_frames(decoder_address: str, side_picture: Frame) -> None:
    good = to_image(side_picture, types_pb2.IMAGE_FORMAT_PNG)
    other = to_image(np.zeros((8, 8, 3), np.uint8), types_pb2.IMAGE_FORMAT_PNG)
    now = to_timestamp(EPOCH_US)
    bad = [
        (SideInformationFrame(image=good), types_pb2.ERROR_REASON_FIELD_INVALID),
        (SideInformationFrame(capture_time=now), types_pb2.ERROR_REASON_FIELD_INVALID),
        (SideInformationFrame(capture_time=now, image=other), types_pb2.ERROR_REASON_IMAGE_INVALID),
    ]
    async with SideNode.connect(decoder_address) as node:
        opened = await node.open(side_open(side_picture))
        assert opened.opened.credit.max_frames == 4
        assert opened.opened.credit.max_bytes >= 4 * side_picture.nbytes
        for sequence, (frame, reason) in enumerate(bad, start=1):
            frame.sequence = sequence
            await node.write(StreamSideInformationRequest(frame=frame))
            error = (await node.read()).error
            assert (error.sequence, error.reason) == (sequence, reason)
            assert (await node.read()).ack.up_to_sequence == sequence
        assert (await node.send(4, side_picture, EPOCH_US)).ack.up_to_sequence == 4
    stream = (await streams(decoder_address))["right"]
    assert (stream.received, stream.decoded, stream.failed) == (4, 1, 3)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rig": "no name"}, "FIELD_INVALID"),
        ({"camera": ""}, "FIELD_INVALID"),
        ({"session_id": b""}, "FIELD_INVALID"),
        ({"geometry": None}, "FIELD_INVALID"),
        ({"geometry": Geometry(width=1 << 16, height=1 << 16)}, "GEOMETRY_UNSUPPORTED"),
    ],
)
async def test_bad_side_information_open(
    decoder_address: str, side_picture: Frame, fields: dict[str, Any], reason: str
) -> None:
    async with SideNode.connect(decoder_address) as node:
        await node.write(StreamSideInformationRequest(open=side_open(side_picture, **fields)))
        assert await node.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, reason)
