"""The bundles a decoder serves: loaded anywhere, prepared where their provider is, decoded with in shared runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoder_service import decoding
from decoder_service.batching import Run
from decoder_service.decoding import Decoders
from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.errors import BundleError, GeometryError, ProviderError
from ndsc.codec.frames import Frame, Geometry
from ndsc.codec.runtime import RuntimeOptions
from ndsc.service.errors import BITSTREAM_UNKNOWN, NOT_READY, RefusedError

Make = Callable[..., Decoders]


@pytest.fixture
async def make(tiny_bundle: Bundle) -> AsyncIterator[Make]:
    """`make(bundles, options, …)` → Decoders that are closed after the test."""
    made: list[Decoders] = []

    def make(*bundles: Bundle, **options: Any) -> Decoders:
        made.append(Decoders(bundles or (tiny_bundle,), **options))
        return made[-1]

    yield make
    for decoders in made:
        decoders.close()


def frames(count: int, height: int = 24, width: int = 40) -> list[Frame]:
    return list(np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


async def test_batched_frames_are_what_each_would_be_alone(make: Make, tiny_bundle: Bundle) -> None:
    """Levels differ, and some have no side information."""
    runs: list[Run] = []
    decoders = make(options=RuntimeOptions(threads=1), max_batch=8, observe=runs.append)
    await decoders.prepare()
    decoder = decoders.find(tiny_bundle.bitstream_id)
    encoder, alone = FrameEncoder(tiny_bundle), FrameDecoder(tiny_bundle)
    sources, sides = frames(9), [*frames(8)[::-1], None]
    compressed = [encoder.encode(x, level % 3) for level, x in enumerate(sources)]
    decoded = await asyncio.gather(
        *(decoders.decode(decoder, decoder.unpack(c), y) for c, y in zip(compressed, sides, strict=True))
    )
    for c, y, picture in zip(compressed, sides, decoded, strict=True):
        np.testing.assert_array_equal(picture, alone.decode(c, y))
    assert [len(run.waited_s) for run in runs] == [1, 8]


async def test_a_frame_that_cannot_be_decoded_fails_alone(make: Make, tiny_bundle: Bundle) -> None:
    decoders = make(max_batch=8)
    await decoders.prepare()
    decoder = decoders.find(tiny_bundle.bitstream_id)
    indices = [decoder.unpack(FrameEncoder(tiny_bundle).encode(x)) for x in frames(6)]
    wrong = frames(1, height=8)[0]
    outcomes = await asyncio.gather(
        *(decoders.decode(decoder, i, wrong if n == 4 else None) for n, i in enumerate(indices)),
        return_exceptions=True,
    )
    assert [isinstance(outcome, np.ndarray) for outcome in outcomes] == [True] * 4 + [False, True]
    assert isinstance(outcomes[4], GeometryError)


@pytest.mark.parametrize("small_pixels", [1, 1 << 20])
async def test_small_and_large_frames_decode_alike(
    make: Make, tiny_bundle: Bundle, small_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_SMALL_FRAME_PIXELS", small_pixels)
    decoders = make(options=RuntimeOptions(threads=2))
    await decoders.prepare()
    decoder = decoders.find(tiny_bundle.bitstream_id)
    (x,) = frames(1)
    compressed = FrameEncoder(tiny_bundle).encode(x)
    decoded = await decoders.decode(decoder, decoder.unpack(compressed), x)
    np.testing.assert_array_equal(decoded, FrameDecoder(tiny_bundle).decode(compressed, x))


async def test_a_bundle_loads_without_its_provider_and_is_not_ready(tiny_bundle_path: Path) -> None:
    decoders = Decoders.load([tiny_bundle_path], RuntimeOptions(provider="cuda"))
    try:
        assert decoders.preferred.name == "tiny"
        with pytest.raises(ProviderError, match="CUDAExecutionProvider"):
            await decoders.prepare()
        with pytest.raises(RefusedError, match="cannot decode yet") as refused:
            decoders.find(decoders.preferred.bitstream_id)
        assert refused.value.reason == NOT_READY
    finally:
        decoders.close()


async def test_bundles_in_order_and_unknown_ones(
    make: Make, tiny_bundle: Bundle, tiny_parts: dict[str, Any], tmp_path: Path
) -> None:
    other = write_bundle(tmp_path / "other", **tiny_parts | {"geometry": Geometry(8, 64, 1 << 12)})
    decoders = make(other, tiny_bundle)
    assert decoders.bundles == (other, tiny_bundle)
    assert decoders.preferred is other
    assert decoders.max_pixels == 1 << 20
    assert decoders.bundle(tiny_bundle.bitstream_id) is tiny_bundle
    # Unknown before it is ready, and after.
    for _ in range(2):
        with pytest.raises(RefusedError, match=rf"only {other.bitstream_id.hex()} \(tiny\), ") as refused:
            decoders.find(bytes(16))
        assert refused.value.reason == BITSTREAM_UNKNOWN
        await decoders.prepare()
    assert decoders.find(other.bitstream_id).bundle is other


def test_two_bundles_of_one_bitstream(
    tiny_bundle: Bundle, tiny_parts: dict[str, Any], tmp_path: Path
) -> None:
    better = write_bundle(tmp_path / "better", **tiny_parts | {"decoder_onnx": b"better"})
    with pytest.raises(BundleError, match="decode the same bitstream; serve one of them"):
        Decoders((tiny_bundle, better))


async def test_a_bundle_whose_graph_is_none_is_found_out_when_it_is_prepared(
    make: Make, tiny_parts: dict[str, Any], tmp_path: Path
) -> None:
    decoders = make(write_bundle(tmp_path / "broken", **tiny_parts | {"decoder_onnx": b"no graph"}))
    with pytest.raises(BundleError, match=r"decoder\.onnx cannot be loaded"):
        await decoders.prepare()
