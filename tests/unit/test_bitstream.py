"""Payloads and `.ndsc` files: exact bytes, round trips, and damage that must never become indices."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndsc.codec import bitstream, entropy
from ndsc.codec.bitstream import (
    Bitstream,
    CompressedFrame,
    decode_payload,
    encode_payload,
    from_bytes,
    payload_bounds,
    read_frame_file,
    to_bytes,
    write_frame_file,
)
from ndsc.codec.errors import (
    BitstreamMismatchError,
    DamagedError,
    FrameFileError,
    GeometryError,
    OutputError,
    PayloadCorruptError,
    PayloadSizeError,
    RateLevelError,
)
from ndsc.codec.frames import Geometry, Grid
from ndsc.codec.prior import StaticPrior

SIZES = (16, 8, 4)
STREAM = Bitstream(
    bitstream_id=bytes(range(16)),
    geometry=Geometry(stride=8, max_side=2048, max_pixels=1 << 20),
    prior=StaticPrior.from_counts([np.arange(1, size + 1) for size in SIZES]),
    rate_levels=(1, 2, 3),
)
GRID = Grid(height=3, width=5)
FRAME = CompressedFrame(bytes(range(16)), 2, 40, 24, b"coded bytes!")


def draw_indices(rng: np.random.Generator, level: int, grid: Grid = GRID) -> NDArray[np.int32]:
    shape = (grid.height, grid.width)
    return np.stack([rng.integers(0, size, shape, dtype=np.int32) for size in SIZES[: level + 1]])


@st.composite
def indices_and_level(draw: st.DrawFn) -> tuple[NDArray[np.int32], int]:
    level = draw(st.integers(0, 2))
    grid = Grid(draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    return draw_indices(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), level, grid), level


@given(indices_and_level())
def test_payload_round_trip(case: tuple[NDArray[np.int32], int]) -> None:
    indices, level = case
    grid = Grid(*indices.shape[1:])
    payload = encode_payload(indices, level, STREAM)
    least, most = payload_bounds(STREAM, level, grid)
    assert least <= len(payload) <= most
    decoded = decode_payload(payload, grid, level, STREAM)
    np.testing.assert_array_equal(decoded, indices)
    assert decoded.dtype == np.int32


def test_payload_checksum_covers_what_the_bits_mean() -> None:
    """The layout of the module docstring, written out a second time."""
    indices = draw_indices(np.random.default_rng(0), 1)
    payload = encode_payload(indices, 1, STREAM)
    covered = bytes(range(16)) + struct.pack("<BHH30H", 1, 3, 5, *indices.ravel().tolist())
    assert payload[-4:] == struct.pack("<I", google_crc32c.value(covered))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, 5), np.int32),
        np.zeros((3, 5), np.int32),
        np.zeros((2, 0, 5), np.int32),
        np.full((2, 3, 5), -1, np.int32),
        np.full((2, 3, 5), 8, np.int32),
    ],
)
def test_indices_that_are_not_of_the_level(wrong: NDArray[np.int32]) -> None:
    with pytest.raises(ValueError, match="indices"):
        encode_payload(wrong, 1, STREAM)


@pytest.mark.parametrize("level", [-1, 3, 255])
def test_unknown_rate_level(level: int) -> None:
    with pytest.raises(RateLevelError, match="0 to 2"):
        encode_payload(np.zeros((1, 1, 1), np.int32), level, STREAM)
    with pytest.raises(RateLevelError, match="0 to 2"):
        decode_payload(bytes(8), GRID, level, STREAM)


def test_every_single_bit_matters() -> None:
    """Also the spare bits of the last coded word, which change no index."""
    for seed in range(20):
        payload = encode_payload(draw_indices(np.random.default_rng(seed), 2), 2, STREAM)
        for bit in range(8 * len(payload)):
            flipped = bytearray(payload)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(PayloadCorruptError):
                decode_payload(bytes(flipped), GRID, 2, STREAM)


def test_a_payload_is_bound_to_its_level_grid_and_bitstream() -> None:
    indices = np.zeros((2, 3, 5), np.int32)
    payload = encode_payload(indices, 1, STREAM)
    same_stages = Bitstream(STREAM.bitstream_id, STREAM.geometry, STREAM.prior, (1, 2, 2))
    other = Bitstream(bytes(16), STREAM.geometry, STREAM.prior, STREAM.rate_levels)
    assert decode_payload(payload, GRID, 1, same_stages).size
    for grid, level, stream in ((Grid(5, 3), 1, STREAM), (GRID, 2, same_stages), (GRID, 1, other)):
        with pytest.raises(PayloadCorruptError):
            decode_payload(payload, grid, level, stream)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: b"",
        lambda p: p[:4],
        lambda p: p[:-1],
        lambda p: p + b"\0",
        lambda p: p + bytes(64),
        lambda p: p * 1000,
    ],
)
def test_impossible_lengths_are_refused_before_the_coder_runs(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = encode_payload(draw_indices(np.random.default_rng(1), 2), 2, STREAM)
    monkeypatch.setattr(entropy, "decode", lambda *_: pytest.fail("the coder ran"))
    with pytest.raises(PayloadSizeError, match=r"3x5|5x3"):
        decode_payload(change(payload), GRID, 2, STREAM)


@given(indices_and_level(), st.data())
def test_mutated_payloads_never_decode(case: tuple[NDArray[np.int32], int], data: st.DataObject) -> None:
    indices, level = case
    payload = encode_payload(indices, level, STREAM)
    mutated = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
        place = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        if kind == "set" and mutated:
            mutated[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del mutated[place : place + 4]
        else:
            mutated[place:place] = data.draw(st.binary(min_size=4, max_size=8))
    assume(bytes(mutated) != payload)
    with pytest.raises(DamagedError):
        decode_payload(bytes(mutated), Grid(*indices.shape[1:]), level, STREAM)


@given(st.binary(max_size=80), st.integers(0, 2))
def test_random_bytes_never_decode(data: bytes, level: int) -> None:
    with pytest.raises(DamagedError):
        decode_payload(data, GRID, level, STREAM)


def test_worst_and_best_cases_stay_inside_the_bounds() -> None:
    skewed = StaticPrior((np.array([1, 65535], np.uint32),))
    stream = Bitstream(bytes(16), STREAM.geometry, skewed, (1,))
    for side in (1, 2, 7, 64, 256):
        grid = Grid(side, side)
        least, most = payload_bounds(stream, 0, grid)
        for index in (0, 1):
            indices = np.full((1, side, side), index, np.int32)
            payload = encode_payload(indices, 0, stream)
            assert least <= len(payload) <= most
            np.testing.assert_array_equal(decode_payload(payload, grid, 0, stream), indices)


def test_mismatch_message_names_both_ids() -> None:
    STREAM.check_id(bytes(range(16)))
    both = f"{'ff' * 16}.*{bytes(range(16)).hex()}.*use the bundle"
    with pytest.raises(BitstreamMismatchError, match=both):
        STREAM.check_id(b"\xff" * 16)


def test_frame_file_layout() -> None:
    """The layout of the module docstring, written out a second time."""
    data = to_bytes(FRAME)
    assert data[:-4] == (
        b"NDSC"
        + bytes([1, 2])
        + (40).to_bytes(2, "little")
        + (24).to_bytes(2, "little")
        + bytes(range(16))
        + (12).to_bytes(4, "little")
        + b"coded bytes!"
    )
    assert data[-4:] == google_crc32c.value(data[:-4]).to_bytes(4, "little")
    assert FRAME.payload_bpp == 8 * 12 / (40 * 24)


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 255),
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.binary(max_size=300),
)
def test_frame_file_round_trip(
    bitstream_id: bytes, level: int, width: int, height: int, payload: bytes
) -> None:
    frame = CompressedFrame(bitstream_id, level, width, height, payload)
    assert from_bytes(to_bytes(frame)) == frame


def test_frame_file_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "frame.ndsc"
    write_frame_file(path, FRAME)
    assert read_frame_file(path) == FRAME
    assert path.read_bytes() == to_bytes(FRAME)
    with pytest.raises(OutputError):
        write_frame_file(tmp_path / "absent" / "frame.ndsc", FRAME)
    assert [p.name for p in tmp_path.iterdir()] == ["frame.ndsc"]


def test_every_bit_and_every_length_of_a_frame_file_matters() -> None:
    data = to_bytes(FRAME)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameFileError):
            from_bytes(bytes(flipped))
    for cut in range(len(data)):
        with pytest.raises(FrameFileError):
            from_bytes(data[:cut])
    with pytest.raises(FrameFileError):
        from_bytes(data + b"\0")


@given(st.binary(max_size=120))
@example(b"NDSC")
@example(b"NDSC\1")
@example(b"NDSC" + bytes(34))
def test_random_files_are_no_frames(data: bytes) -> None:
    for candidate in (data, b"NDSC\1" + data):
        with pytest.raises(FrameFileError, match=r"^somewhere"):
            from_bytes(candidate, "somewhere")


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", google_crc32c.value(body))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"RIFF" + bytes(60), "not a .ndsc file"),
        (b"", "not a .ndsc file"),
        (sealed(b"NDSC\0" + bytes(40)), "version 0 is not known"),
        (to_bytes(FRAME)[:20], "truncated after 20 bytes"),
        (to_bytes(FRAME)[:-7], "checksum"),
        (sealed(to_bytes(FRAME)[:-4] + b"more"), "header does not fit"),
        (sealed(b"NDSC\1\0" + bytes(2) + b"\x01\0" + bytes(20)), "header does not fit"),
        (sealed(b"NDSC\1\0" + b"\x01\0" + bytes(2) + bytes(20)), "header does not fit"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "frame.ndsc"
    path.write_bytes(data)
    with pytest.raises(FrameFileError, match=reason) as caught:
        read_frame_file(path)
    assert str(caught.value).startswith(str(path))


def test_unreadable_and_oversized_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FrameFileError, match="No such file"):
        read_frame_file(tmp_path / "absent.ndsc")
    path = tmp_path / "frame.ndsc"
    write_frame_file(path, FRAME)
    monkeypatch.setattr(bitstream, "MAX_FRAME_FILE_BYTES", len(to_bytes(FRAME)))
    assert read_frame_file(path) == FRAME
    monkeypatch.setattr(bitstream, "MAX_FRAME_FILE_BYTES", len(to_bytes(FRAME)) - 1)
    with pytest.raises(FrameFileError, match="larger"):
        read_frame_file(path)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (CompressedFrame(bytes(16), 0, 65536, 1, b""), GeometryError),
        (CompressedFrame(bytes(16), 0, 1, 0, b""), GeometryError),
        (CompressedFrame(bytes(16), 256, 1, 1, b""), RateLevelError),
        (CompressedFrame(bytes(15), 0, 1, 1, b""), ValueError),
    ],
)
def test_fields_that_do_not_fit_the_header(frame: CompressedFrame, error: type[Exception]) -> None:
    with pytest.raises(error):
        to_bytes(frame)
