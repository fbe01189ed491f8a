"""ndsc.client.Client against a running decoder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest

from ndsc.client import Client, ServiceError, SideInformationUse, SideReference, UnreachableError
from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.errors import GeometryError
from ndsc.codec.frames import Frame
from tests.contract.conftest import StartDecoder, address_of
from tests.contract.decoder_node import EPOCH_US, CameraNode, SideNode, camera_open, side_open

T = TypeVar("T")


async def in_client(address: str, work: Callable[[Client], T]) -> T:
    """Use a client in a thread: it blocks, and the server lives on this event loop."""

    def use() -> T:
        with Client(address) as client:
            return work(client)

    return await asyncio.to_thread(use)


async def test_decode(
    decoder_address: str, compressed: CompressedFrame, side_picture: Frame, tiny_decoder: FrameDecoder
) -> None:
    alone = await in_client(decoder_address, lambda client: client.decode(compressed))
    np.testing.assert_array_equal(alone.image, tiny_decoder.decode(compressed))
    assert alone.side_information == SideInformationUse("not_requested")
    assert alone.bundle_id == tiny_decoder.bundle.bundle_id
    helped = await in_client(decoder_address, lambda client: client.decode(compressed, side_picture))
    np.testing.assert_array_equal(helped.image, tiny_decoder.decode(compressed, side_picture))
    assert helped.side_information.outcome == "inline"


async def test_decode_by_reference(
    decoder_address: str, compressed: CompressedFrame, side_picture: Frame
) -> None:
    async with SideNode.connect(decoder_address) as side:
        await side.open(side_open(side_picture))
        await side.send(1, side_picture, EPOCH_US)
        reference = SideReference("rig", "right", EPOCH_US + 1000)
        decoded = await in_client(decoder_address, lambda client: client.decode(compressed, reference))
    assert decoded.side_information == SideInformationUse("paired", "right", EPOCH_US, -1000)


async def test_refusals_have_a_reason(decoder_address: str, compressed: CompressedFrame) -> None:
    damaged = replace(compressed, payload=compressed.payload[:-4])
    with pytest.raises(ServiceError) as refused:
        await in_client(decoder_address, lambda client: client.decode(damaged))
    assert refused.value.reason in ("PAYLOAD_SIZE", "PAYLOAD_CORRUPT")
    assert not refused.value.retryable
    missing = SideReference("rig", "right", EPOCH_US)
    with pytest.raises(ServiceError) as later:
        await in_client(decoder_address, lambda client: client.decode(compressed, missing))
    assert (later.value.reason, later.value.retryable) == ("STREAM_UNKNOWN", True)
    with pytest.raises(GeometryError):
        await in_client(decoder_address, lambda client: client.decode(compressed, np.zeros((2, 2), np.uint8)))


async def test_subscribe(
    decoder_address: str, compressed: CompressedFrame, tiny_decoder: FrameDecoder
) -> None:
    with Client(decoder_address) as client:
        pictures = await asyncio.to_thread(client.subscribe, "rig", ["left"], include_compressed=True)
        async with CameraNode.connect(decoder_address) as node:
            await node.open(camera_open(compressed))
            await node.send(1, compressed)
            got = await asyncio.to_thread(next, pictures)
    assert (got.camera, got.sequence, got.missed, got.compressed) == ("left", 1, 0, compressed)
    assert got.capture_time_us == EPOCH_US + 100_000
    np.testing.assert_array_equal(got.image, tiny_decoder.decode(compressed))


async def test_a_subscription_that_is_refused(decoder_address: str) -> None:
    with pytest.raises(ServiceError) as refused:
        await in_client(decoder_address, lambda client: client.subscribe("no name"))
    assert refused.value.reason == "FIELD_INVALID"


async def test_a_subscription_ends_with_the_server(start_decoder: StartDecoder) -> None:
    decoder = await start_decoder()
    with Client(address_of(decoder)) as client:
        pictures = await asyncio.to_thread(client.subscribe, "rig")
        ended = asyncio.create_task(asyncio.to_thread(next, pictures))
        await decoder.drain()
        with pytest.raises(ServiceError) as refused:
            await ended
    assert (refused.value.reason, refused.value.retryable) == ("DRAINING", True)


async def test_listing(decoder_address: str, tiny_bundle: Bundle, compressed: CompressedFrame) -> None:
    (bundle,) = await in_client(decoder_address, lambda client: client.bundles())
    assert (bundle.bundle_id, bundle.bitstream_id) == (tiny_bundle.bundle_id, tiny_bundle.bitstream_id)
    async with CameraNode.connect(decoder_address) as node:
        await node.open(camera_open(compressed))
        await node.send(1, compressed)
        await node.read()
        (stream,) = await in_client(decoder_address, lambda client: client.streams("rig"))
    assert (stream.kind, stream.camera, stream.open, stream.decoded) == ("camera", "left", True, 1)
    assert stream.last_capture_time_us == EPOCH_US + 100_000


def test_nothing_at_the_address(compressed: CompressedFrame) -> None:
    with Client("127.0.0.1:1", timeout_s=5) as client:
        for call in (lambda: client.decode(compressed), client.bundles, client.streams):
            with pytest.raises(UnreachableError, match=r"no service answers at 127\.0\.0\.1:1"):
                call()
        with pytest.raises(UnreachableError):
            client.subscribe("rig")
