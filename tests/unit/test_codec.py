"""Frames through encoder and decoder: right pictures, and errors in place of wrong ones."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndsc.codec.bitstream import CompressedFrame, from_bytes, to_bytes
from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder, Indices
from ndsc.codec.errors import (
    BitstreamMismatchError,
    BundleError,
    DamagedError,
    GeometryError,
    PayloadCorruptError,
    PayloadSizeError,
    RateLevelError,
)
from ndsc.codec.frames import Frame, Geometry
from ndsc.codec.prior import StaticPrior

SIZES = np.array([16, 8, 4])


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Bundle) -> FrameEncoder:
    return FrameEncoder(tiny_bundle)


@pytest.fixture(scope="module")
def decoder(tiny_bundle: Bundle) -> FrameDecoder:
    return FrameDecoder(tiny_bundle)


def noise(height: int, width: int, seed: int = 0) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected_pixels(frame: Frame, level: int, y: Frame | None) -> NDArray[np.float64]:
    """The tiny bundle's map in numpy: float [H, W, 3], clipped, before rounding."""
    height, width = frame.shape[:2]
    edges = ((0, -height % 8), (0, -width % 8), (0, 0))
    padded = np.pad(frame, edges, mode="edge").astype(np.int64)
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    sums = padded.reshape(rows, 8, columns, 8, 3).sum((1, 3))
    indices = np.minimum(sums * SIZES // (64 * 255), SIZES - 1)
    values = np.where(np.arange(3) <= level, (indices + 0.5) / SIZES, 0)
    picture = values.repeat(8, 0).repeat(8, 1)[:height, :width]
    if y is not None:
        picture = picture + (y / 255 - 0.5) / 4
    return np.clip(picture, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (7, 9), (37, 61), (375, 1242)])
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("with_side", [False, True])
def test_pictures_are_the_maps(
    encoder: FrameEncoder, decoder: FrameDecoder, height: int, width: int, level: int, with_side: bool
) -> None:
    frame, y = noise(height, width), noise(height, width, 1) if with_side else None
    compressed = encoder.encode(frame, level)
    assert (compressed.width, compressed.height, compressed.rate_level) == (width, height, level)
    expected = expected_pixels(frame, level, y)
    pixels = decoder.decode_float(compressed, y)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    decoded = decoder.decode(compressed, y)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded - expected * 255).max() < 0.501
    np.testing.assert_array_equal(decoder.decode(from_bytes(to_bytes(compressed)), y), decoded)


def test_default_rate_level(encoder: FrameEncoder, noise_frame: Frame) -> None:
    assert encoder.encode(noise_frame) == encoder.encode(noise_frame, 1)


def test_more_stages_cost_more_and_lie_close_to_the_ideal(
    encoder: FrameEncoder, decoder: FrameDecoder
) -> None:
    frame = noise(256, 512)
    sizes = []
    for level in range(3):
        compressed = encoder.encode(frame, level)
        ideal = encoder.bundle.prior.ideal_bits(decoder.unpack(compressed).stages)
        assert ideal < 8 * len(compressed.payload) < ideal + 32 + 64
        assert compressed.payload_bpp == 8 * len(compressed.payload) / (256 * 512)
        sizes.append(len(compressed.payload))
    assert sizes == sorted(set(sizes))


def test_batches_give_what_single_frames_give(encoder: FrameEncoder, decoder: FrameDecoder) -> None:
    frames = [noise(37, 61, seed) for seed in range(4)]
    sides = [noise(37, 61, 10), None, noise(37, 61, 11), None]
    compressed = [encoder.encode(frame, level) for frame, level in zip(frames, (0, 1, 2, 2), strict=True)]
    batch = decoder.decode_batch([decoder.unpack(c) for c in compressed], sides)
    for c, y, decoded in zip(compressed, sides, batch, strict=True):
        np.testing.assert_array_equal(decoded, decoder.decode(c, y))
    assert decoder.decode_batch([], []) == []


def test_frames_that_are_views_decode_the_same(encoder: FrameEncoder, decoder: FrameDecoder) -> None:
    frame = noise(40, 80)
    flipped = frame[::-1, ::-1]
    assert encoder.encode(flipped) == encoder.encode(np.ascontiguousarray(flipped))
    frozen = noise(40, 80, 3)
    frozen.flags.writeable = False
    assert decoder.decode(encoder.encode(frozen), frozen[::-1]).shape == (40, 80, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        None,
        np.zeros((2049, 1, 3), np.uint8),
        np.zeros((1025, 1024, 3), np.uint8),
    ],
)
def test_frames_that_cannot_be_coded(encoder: FrameEncoder, wrong: Any) -> None:
    with pytest.raises(GeometryError) as caught:
        encoder.encode(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("level", [-1, 3])
def test_unknown_rate_levels(
    encoder: FrameEncoder, decoder: FrameDecoder, noise_frame: Frame, level: int
) -> None:
    with pytest.raises(RateLevelError):
        encoder.encode(noise_frame, level)
    with pytest.raises(RateLevelError):
        decoder.unpack(dataclasses.replace(encoder.encode(noise_frame), rate_level=level))


def test_one_analysis_packs_at_every_level(
    encoder: FrameEncoder, decoder: FrameDecoder, noise_frame: Frame
) -> None:
    analyzed = encoder.analyze(noise_frame)
    for level in range(3):
        compressed = encoder.encode(noise_frame, level)
        assert encoder.pack(analyzed, level) == compressed
        np.testing.assert_array_equal(decoder.unpack(compressed).stages, analyzed.stages[: level + 1])
    np.testing.assert_array_equal(
        decoder.decode_batch([analyzed], [None])[0], decoder.decode(encoder.encode(noise_frame, 2))
    )


def test_a_frame_is_packed_anew_at_lower_levels_only(
    encoder: FrameEncoder, decoder: FrameDecoder, noise_frame: Frame
) -> None:
    unpacked = decoder.unpack(encoder.encode(noise_frame, 1))
    assert encoder.pack(unpacked, 0) == encoder.encode(noise_frame, 0)
    with pytest.raises(RateLevelError, match="level 1 do not suffice for 2"):
        encoder.pack(unpacked, 2)
    with pytest.raises(BitstreamMismatchError):
        encoder.pack(dataclasses.replace(unpacked, bitstream_id=bytes(16)), 0)


def test_side_information_of_another_size_or_kind(
    encoder: FrameEncoder, decoder: FrameDecoder, noise_frame: Frame
) -> None:
    compressed = encoder.encode(noise_frame)
    with pytest.raises(GeometryError, match=r"61x36.*61x37"):
        decoder.decode(compressed, noise_frame[:36])
    with pytest.raises(GeometryError, match="side information must be a uint8"):
        decoder.decode(compressed, noise_frame.astype(np.float32))


def test_a_batch_holds_one_size_and_one_side_entry_each(encoder: FrameEncoder, decoder: FrameDecoder) -> None:
    one, other = (decoder.unpack(encoder.encode(noise(h, 8))) for h in (8, 7))
    with pytest.raises(GeometryError, match="one size"):
        decoder.decode_batch([one, other], [None, None])
    with pytest.raises(ValueError, match="zip"):
        decoder.decode_batch([one, one], [None])


def test_indices_that_no_payload_holds_never_reach_the_graph(decoder: FrameDecoder) -> None:
    bitstream_id = decoder.bundle.bitstream_id
    good = Indices(bitstream_id, 0, 8, 8, np.zeros((1, 1, 1), np.int32))
    assert decoder.decode_batch([good], [None])[0].shape == (8, 8, 3)
    for stages in (np.full((1, 1, 1), 16), np.full((1, 1, 1), -1), np.zeros((2, 1, 1)), np.zeros((1, 1, 2))):
        with pytest.raises(PayloadCorruptError):
            decoder.decode_batch([dataclasses.replace(good, stages=stages.astype(np.int32))], [None])
    with pytest.raises(BitstreamMismatchError):
        decoder.decode_batch([dataclasses.replace(good, bitstream_id=bytes(16))], [None])


def test_checks_run_cheapest_first(encoder: FrameEncoder, decoder: FrameDecoder, noise_frame: Frame) -> None:
    """Each step repairs what the step before complained about."""
    good = encoder.encode(noise_frame, 2)
    flipped = bytes([good.payload[0] ^ 1]) + good.payload[1:]
    steps: list[tuple[type[Exception], dict[str, Any]]] = [
        (BitstreamMismatchError, {}),
        (RateLevelError, {"bitstream_id": good.bitstream_id}),
        (GeometryError, {"rate_level": 2}),
        (PayloadSizeError, {"width": good.width}),
        (PayloadCorruptError, {"payload": flipped}),
    ]
    frame = CompressedFrame(bytes(16), 9, 1 << 20, good.height, b"short")
    for error, repair in steps:
        frame = dataclasses.replace(frame, **repair)
        with pytest.raises(error):
            decoder.unpack(frame)
    assert decoder.unpack(dataclasses.replace(frame, payload=good.payload)).stages.shape == (3, 5, 8)


_EXPECTED_ERRORS = (DamagedError, BitstreamMismatchError, GeometryError, RateLevelError)


@given(st.data())
@settings(max_examples=300)
def test_mutated_files_raise_or_are_the_frame(
    tiny_bundle: Bundle, encoder: FrameEncoder, decoder: FrameDecoder, data: st.DataObject
) -> None:
    good = encoder.encode(noise(24, 40, data.draw(st.integers(0, 3))), data.draw(st.integers(0, 2)))
    mutated = bytearray(to_bytes(good))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        if data.draw(st.booleans()):
            mutated[at] = data.draw(st.integers(0, 255))
        else:
            mutated[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
            mutated += b"\0" * (not mutated)
    try:
        frame = from_bytes(bytes(mutated))
        decoder.unpack(frame)
    except _EXPECTED_ERRORS:
        return
    assert frame == good


@given(st.data())
@settings(max_examples=300)
def test_mutated_fields_raise_or_decode_to_the_same_indices(
    encoder: FrameEncoder, decoder: FrameDecoder, data: st.DataObject
) -> None:
    """As on the wire, where no file checksum guards the fields around a payload."""
    good = encoder.encode(noise(24, 40, data.draw(st.integers(0, 3))), data.draw(st.integers(0, 2)))
    payload = bytearray(good.payload)
    for _ in range(data.draw(st.integers(0, 2))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    frame = CompressedFrame(
        data.draw(st.sampled_from([good.bitstream_id, good.bitstream_id[:15], bytes(16), b""])),
        data.draw(st.integers(-1, 256)),
        data.draw(st.integers(-1, 100)),
        data.draw(st.integers(-1, 100)),
        bytes(payload) + data.draw(st.binary(max_size=4)),
    )
    try:
        indices = decoder.unpack(frame)
    except _EXPECTED_ERRORS:
        return
    # The grid is guarded; width and height inside one grid are the session's word, as in a file the header's.
    assert (frame.payload, frame.rate_level, frame.bitstream_id) == (
        good.payload,
        good.rate_level,
        good.bitstream_id,
    )
    np.testing.assert_array_equal(indices.stages, decoder.unpack(good).stages)


@pytest.mark.parametrize("damage", ["encoder_onnx", "decoder_onnx"])
def test_a_broken_graph_fails_when_the_codec_is_made(
    tiny_parts: dict[str, Any], tmp_path: Any, damage: str
) -> None:
    broken = write_bundle(tmp_path / "broken", **tiny_parts | {damage: b"no graph"})
    with pytest.raises(BundleError, match=damage.replace("_", ".")):
        (FrameEncoder if damage == "encoder_onnx" else FrameDecoder)(broken)


def test_a_graph_that_does_not_fit_the_prior_is_the_bundles_fault(
    tiny_parts: dict[str, Any], tmp_path: Any
) -> None:
    smaller = StaticPrior.from_counts([np.ones(size, np.int64) for size in (8, 8, 4)])
    fewer = StaticPrior.from_counts([np.ones(size, np.int64) for size in (16, 8)])
    white = np.full((8, 8, 3), 255, np.uint8)
    bundle = write_bundle(tmp_path / "smaller", **tiny_parts | {"prior": smaller})
    with pytest.raises(BundleError, match="does not fit the prior"):
        FrameEncoder(bundle).encode(white)
    bundle = write_bundle(tmp_path / "fewer", **tiny_parts | {"prior": fewer, "rate_levels": (1, 2)})
    with pytest.raises(BundleError, match="exported wrongly"):
        FrameEncoder(bundle).encode(white)
    bundle = write_bundle(tmp_path / "stride", **tiny_parts | {"geometry": Geometry(16, 64, 4096)})
    with pytest.raises(BundleError, match="exported wrongly"):
        FrameEncoder(bundle).encode(white)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (np.zeros((1, 3, 8, 16), np.float32), "exported wrongly"),
        (np.zeros((1, 3, 16, 16), np.float64), "exported wrongly"),
        (np.full((1, 3, 16, 16), np.nan, np.float32), "not finite"),
        (np.full((1, 3, 16, 16), np.inf, np.float32), "not finite"),
    ],
)
def test_a_decoder_that_makes_no_picture_is_the_bundles_fault(
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    monkeypatch: pytest.MonkeyPatch,
    output: NDArray[Any],
    reason: str,
) -> None:
    compressed = encoder.encode(noise(9, 10))
    monkeypatch.setattr(decoder._session, "run", lambda *_: output)
    for decode in (decoder.decode, decoder.decode_float):
        with pytest.raises(BundleError, match=reason):
            decode(compressed)


@pytest.mark.parametrize("size", [{}, {"width": 1242, "height": 375}, {"width": 9999, "height": 9999}])
def test_warm_up_stays_inside_the_geometry(
    encoder: FrameEncoder, decoder: FrameDecoder, size: dict[str, int]
) -> None:
    encoder.warm_up(**size)
    decoder.warm_up(**size)


def test_warm_up_of_a_bundle_for_small_frames(tiny_parts: dict[str, Any], tmp_path: Any) -> None:
    bundle = write_bundle(tmp_path / "small", **tiny_parts | {"geometry": Geometry(8, 24, 100)})
    FrameEncoder(bundle).warm_up()
    FrameDecoder(bundle).warm_up()


def test_making_either_end_checks_the_golden_vectors(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mismatch(self: Bundle) -> None:
        raise BundleError("golden vector 0")

    monkeypatch.setattr(Bundle, "check_golden", mismatch)
    for end in (FrameEncoder, FrameDecoder):
        with pytest.raises(BundleError, match="golden vector 0"):
            end(tiny_bundle)


def test_threads_may_share_both_ends(encoder: FrameEncoder, decoder: FrameDecoder) -> None:
    start = threading.Barrier(4)

    def work(seed: int) -> bool:
        start.wait()
        frame, y = noise(40, 64, seed), noise(40, 64, seed + 100)
        return all(
            np.abs(
                decoder.decode(encoder.encode(frame, level), y) - expected_pixels(frame, level, y) * 255
            ).max()
            < 0.501
            for level in (0, 1, 2)
            for _ in range(5)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_provider_is_named(encoder: FrameEncoder, decoder: FrameDecoder) -> None:
    assert (encoder.provider, decoder.provider) == ("CPUExecutionProvider",) * 2
