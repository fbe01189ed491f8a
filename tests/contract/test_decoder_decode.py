"""Decode: one compressed frame, with side information inline, held by the server, or none."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.frames import Frame
from ndsc.service.channel import open_channel
from ndsc.service.images import from_image, to_image
from ndsc.service.timestamps import from_timestamp, to_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.decode_pb2 import DecodeRequest, DecodeResponse
from ndsc.v1.decode_pb2_grpc import DecodeServiceStub
from ndsc.v1.types_pb2 import Geometry, Image, SideInformationReference
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import EPOCH_US, SideNode, compressed_message, refusal, side_open

PNG, RAW, JPEG = (
    types_pb2.IMAGE_FORMAT_PNG,
    types_pb2.IMAGE_FORMAT_RAW_RGB8,
    types_pb2.IMAGE_FORMAT_JPEG,
)


async def decode(address: str, request: DecodeRequest) -> DecodeResponse:
    async with open_channel(address) as channel:
        return await DecodeServiceStub(channel).Decode(request, timeout=10)


async def test_without_side_information(
    decoder_address: str, compressed: CompressedFrame, tiny_decoder: FrameDecoder
) -> None:
    answer = await decode(decoder_address, DecodeRequest(frame=compressed_message(compressed)))
    assert answer.image.format == PNG
    np.testing.assert_array_equal(
        from_image(answer.image, max_pixels=10_000), tiny_decoder.decode(compressed)
    )
    assert answer.side_information.outcome == types_pb2.SIDE_INFORMATION_OUTCOME_NOT_REQUESTED
    assert answer.bundle_id.hex() == tiny_decoder.bundle.bundle_id


@pytest.mark.parametrize("image_format", [PNG, RAW])
async def test_inline_side_information(
    decoder_address: str,
    compressed: CompressedFrame,
    side_picture: Frame,
    tiny_decoder: FrameDecoder,
    image_format: types_pb2.ImageFormat,
) -> None:
    answer = await decode(
        decoder_address,
        DecodeRequest(
            frame=compressed_message(compressed),
            side_image=to_image(side_picture, image_format),
            format=image_format,
        ),
    )
    assert answer.image.format == image_format
    assert answer.side_information.outcome == types_pb2.SIDE_INFORMATION_OUTCOME_INLINE
    with_side = tiny_decoder.decode(compressed, side_picture)
    np.testing.assert_array_equal(from_image(answer.image, max_pixels=10_000), with_side)
    assert (with_side != tiny_decoder.decode(compressed)).any()


async def test_side_information_by_reference(
    decoder_address: str, compressed: CompressedFrame, side_picture: Frame, tiny_decoder: FrameDecoder
) -> None:
    async with SideNode.connect(decoder_address) as node:
        await node.open(side_open(side_picture))
        await node.send(1, side_picture, EPOCH_US)
        await node.send(2, np.zeros_like(side_picture), EPOCH_US + 100_000)
        reference = SideInformationReference(
            rig="rig", stream="right", capture_time=to_timestamp(EPOCH_US + 20_000)
        )
        answer = await decode(
            decoder_address,
            DecodeRequest(frame=compressed_message(compressed), side_reference=reference, format=RAW),
        )
    use = answer.side_information
    assert use.outcome == types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED
    assert (use.stream, from_timestamp(use.capture_time), use.offset_us) == ("right", EPOCH_US, -20_000)
    np.testing.assert_array_equal(
        from_image(answer.image, max_pixels=10_000), tiny_decoder.decode(compressed, side_picture)
    )


async def test_reference_to_nothing(
    decoder_address: str, compressed: CompressedFrame, side_picture: Frame
) -> None:
    async with SideNode.connect(decoder_address) as node:
        await node.open(side_open(side_picture))
        await node.send(1, side_picture, EPOCH_US)

        async def refused(stream: str, capture_time_us: int) -> tuple[grpc.StatusCode, str | None]:
            reference = SideInformationReference(
                rig="rig", stream=stream, capture_time=to_timestamp(capture_time_us)
            )
            request = DecodeRequest(frame=compressed_message(compressed), side_reference=reference)
            return (await refusal(decode(decoder_address, request)))[:2]

        not_found = (grpc.StatusCode.NOT_FOUND, "SIDE_INFORMATION_NOT_FOUND")
        assert await refused("right", EPOCH_US + 51_000) == not_found
        assert await refused("nowhere", EPOCH_US) == (grpc.StatusCode.NOT_FOUND, "STREAM_UNKNOWN")


async def test_reference_to_another_size(decoder_address: str, compressed: CompressedFrame) -> None:
    larger = np.zeros((32, 40, 3), np.uint8)
    async with SideNode.connect(decoder_address) as node:
        await node.open(side_open(larger))
        await node.send(1, larger, EPOCH_US)
        reference = SideInformationReference(rig="rig", stream="right", capture_time=to_timestamp(EPOCH_US))
        request = DecodeRequest(frame=compressed_message(compressed), side_reference=reference)
        code, reason, _ = await refusal(decode(decoder_address, request))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SIDE_INFORMATION_GEOMETRY")


def _flipped(payload: bytes) -> bytes:
    return payload[:3] + bytes([payload[3] ^ 0x10]) + payload[4:]


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"bitstream_id": b"short"}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"bitstream_id": bytes(16)}, "FAILED_PRECONDITION", "BITSTREAM_UNKNOWN"),
        ({"rate_level": 3}, "INVALID_ARGUMENT", "RATE_LEVEL_UNKNOWN"),
        ({"width": 0}, "INVALID_ARGUMENT", "GEOMETRY_UNSUPPORTED"),
        ({"width": 4096}, "INVALID_ARGUMENT", "GEOMETRY_UNSUPPORTED"),
        ({"width": 2048, "height": 2048}, "INVALID_ARGUMENT", "GEOMETRY_UNSUPPORTED"),
        ({"payload": b""}, "DATA_LOSS", "PAYLOAD_SIZE"),
        ({"payload": bytes(5)}, "DATA_LOSS", "PAYLOAD_SIZE"),
        ({"payload": bytes(4000)}, "DATA_LOSS", "PAYLOAD_SIZE"),
        ({"payload": "flipped"}, "DATA_LOSS", "PAYLOAD_CORRUPT"),
        ({"rate_level": 2}, "DATA_LOSS", None),  # as size or as corruption, but never a picture
    ],
)
async def test_bad_frames(
    decoder_address: str, compressed: CompressedFrame, change: dict[str, Any], code: str, reason: str | None
) -> None:
    if change.get("payload") == "flipped":
        change = {"payload": _flipped(compressed.payload)}
    frame = replace(compressed, **change)
    got_code, got_reason, message = await refusal(
        decode(decoder_address, DecodeRequest(frame=compressed_message(frame)))
    )
    assert got_code.name == code
    assert got_reason == reason or (reason is None and got_reason in ("PAYLOAD_SIZE", "PAYLOAD_CORRUPT"))
    assert message
    assert "\n" not in message


async def test_no_frame_and_unknown_format(decoder_address: str, compressed: CompressedFrame) -> None:
    no_frame = await refusal(decode(decoder_address, DecodeRequest()))
    assert no_frame[1] == "FIELD_INVALID"
    request = DecodeRequest(frame=compressed_message(compressed))
    request.format = 9  # type: ignore[assignment]
    assert (await refusal(decode(decoder_address, request)))[1] == "FIELD_INVALID"


async def test_bad_side_images(
    decoder_address: str, compressed: CompressedFrame, side_picture: Frame
) -> None:
    good = to_image(side_picture, PNG)
    size: dict[str, Any] = {"width": good.width, "height": good.height}
    larger = to_image(np.zeros((32, 40, 3), np.uint8), PNG)
    cases = [
        (Image(data=good.data, **size), "FIELD_INVALID"),  # no format
        (Image(format=PNG, data=good.data), "FIELD_INVALID"),  # no size
        (Image(format=PNG, data=b"not an image", **size), "IMAGE_INVALID"),
        (Image(format=PNG, data=good.data[:-40], **size), "IMAGE_INVALID"),
        (Image(format=JPEG, data=good.data, **size), "IMAGE_INVALID"),  # another format than stated
        (Image(format=PNG, data=larger.data, **size), "IMAGE_INVALID"),  # another size than stated
        (Image(format=RAW, data=bytes(7), **size), "IMAGE_INVALID"),
        (larger, "SIDE_INFORMATION_GEOMETRY"),
        (Image(format=RAW, width=1 << 20, height=1 << 20), "IMAGE_INVALID"),
    ]
    for image, reason in cases:
        request = DecodeRequest(frame=compressed_message(compressed), side_image=image)
        code, got, _ = await refusal(decode(decoder_address, request))
        assert (code, got) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_references_that_say_too_little(decoder_address: str, compressed: CompressedFrame) -> None:
    now = to_timestamp(EPOCH_US)
    for reference in (
        SideInformationReference(stream="right", capture_time=now),
        SideInformationReference(rig="rig", stream="../right", capture_time=now),
        SideInformationReference(rig="rig", stream="right"),
    ):
        request = DecodeRequest(frame=compressed_message(compressed), side_reference=reference)
        assert (await refusal(decode(decoder_address, request)))[1] == "FIELD_INVALID"


async def test_a_message_beyond_the_limit_is_refused(decoder_address: str) -> None:
    frame = types_pb2.CompressedFrame(geometry=Geometry(width=1, height=1), payload=bytes(8 << 20))
    code, _, _ = await refusal(decode(decoder_address, DecodeRequest(frame=frame)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_more_calls_than_the_server_takes(
    start_decoder: StartDecoder, compressed: CompressedFrame, held_decoder: threading.Event
) -> None:
    address = address_of(await start_decoder(max_decodes=2))
    request = DecodeRequest(frame=compressed_message(compressed))
    calls = asyncio.as_completed([decode(address, request) for _ in range(5)])
    for _ in range(3):  # at once, while the other two are under way
        code, reason, _ = await refusal(next(calls))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    held_decoder.set()
    for call in calls:
        assert (await call).image.width == compressed.width
    assert (await decode(address, request)).image.width == compressed.width
