"""proto/SPEC.md says what the codec does: its reader gets the same indices and refuses the same payloads."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from ndsc.codec import bitstream, errors
from ndsc.codec.bitstream import CompressedFrame, encode_payload
from ndsc.codec.bundle import Bundle
from ndsc.codec.frames import Grid
from tests.golden import spec_bundle, spec_decoder
from tests.golden.agreement import refusal
from tests.golden.spec_bundle import ContextPrior, ScalarPrior, Stage
from tests.golden.spec_decoder import Decoder, decode_frame, decode_payload, read_frame
from tests.golden.spec_errors import (
    BitstreamMismatchError,
    FrameFileError,
    GeometryError,
    PayloadCorruptError,
    PayloadSizeError,
    RateLevelError,
    SpecError,
)

NAMES: Final = ("released", "static", "context", "coarse", "planes")
TINY: Final = ("static", "context", "coarse", "planes")
MOST_POSITIONS: Final = 600
"""Of a golden vector's grid; the specification's reader is in no hurry."""
LARGER: Final = ((13, 22), (33, 17), (4, 40), (2, 65))

Written = dict[str, Bundle]
Bundles = dict[str, spec_bundle.Bundle]
Grids = NDArray[np.int32]


def packed(indices: Sequence[Sequence[int]]) -> bytes:
    return b"".join(struct.pack(f"<{len(stage)}H", *stage) for stage in indices)


def drawn(bundle: Bundle, rng: np.random.Generator, level: int, h: int, w: int, likely: bool) -> Grids:
    """Indices that the prior makes likely, or any."""
    stages = bundle.stages_sent(level)
    if likely:
        return bundle.prior.sample(rng, stages, h, w, level)
    sizes = bundle.prior.codebook_sizes[:stages]
    return np.stack([rng.integers(k, size=(h, w), dtype=np.int32) for k in sizes])


def each_bit_changed(data: bytes, step: int = 1) -> list[bytes]:
    """Copies with one bit changed, of every step-th bit."""
    number = int.from_bytes(data, "little")
    return [(number ^ 1 << bit).to_bytes(len(data), "little") for bit in range(0, 8 * len(data), step)]


# Golden vectors


@pytest.mark.parametrize("name", NAMES)
def test_ids(name: str, written: Written, bundles: Bundles) -> None:
    assert bundles[name].bitstream_id == written[name].bitstream_id
    assert bundles[name].bundle_id == written[name].bundle_id


@pytest.mark.parametrize("name", NAMES)
def test_golden_entries_come_out(name: str, bundles: Bundles) -> None:
    bundle = bundles[name]
    small = [entry for entry in bundle.entries if entry.h * entry.w <= MOST_POSITIONS]
    assert {entry.rate_level for entry in small} == set(range(len(bundle.rate_levels)))
    assert any(entry.h * entry.w >= 100 for entry in small)
    for entry in small:
        indices = decode_payload(bundle, entry.payload, entry.rate_level, entry.h, entry.w)
        assert packed(indices) == entry.indices


@pytest.mark.parametrize("name", NAMES)
def test_damaged_vectors_are_refused(name: str, bundles: Bundles) -> None:
    for vector in bundles[name].damaged:
        place = vector.rate_level, vector.h, vector.w
        assert refusal(decode_payload, bundles[name], vector.payload, *place) == vector.error, vector.damage


# Payloads of the codec's own encoder


def check_comes_back(bundle: Bundle, spec: spec_bundle.Bundle, indices: Grids, level: int) -> None:
    payload = encode_payload(indices, level, bundle.bitstream)
    _, h, w = indices.shape
    assert packed(decode_payload(spec, payload, level, h, w)) == indices.astype("<u2").tobytes()
    expected = bitstream.payload_bounds(bundle.bitstream, level, Grid(h, w))
    assert spec_decoder.payload_bounds(spec, level, h, w) == expected


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("h", range(1, 10))
def test_every_small_grid(name: str, h: int, written: Written, bundles: Bundles) -> None:
    rng = np.random.default_rng(h)
    for w in range(1, 10):
        indices = drawn(written[name], rng, 2, h, w, likely=w % 2 == 0)
        check_comes_back(written[name], bundles[name], indices, 2)


@pytest.mark.parametrize("name", NAMES)
def test_larger_grids_at_every_level(name: str, written: Written, bundles: Bundles) -> None:
    rng = np.random.default_rng(0)
    for level in range(written[name].rate_level_count):
        for number, (h, w) in enumerate(LARGER):
            indices = drawn(written[name], rng, level, h, w, likely=number % 2 == 0)
            check_comes_back(written[name], bundles[name], indices, level)


@pytest.mark.parametrize("name", NAMES)
def test_bounds_are_the_same_however_large_the_grid(name: str, written: Written, bundles: Bundles) -> None:
    """Only many positions show the last parts of 2^24."""
    for level in range(written[name].rate_level_count):
        for h, w in [(1, 300), (128, 200), (1024, 1024), (65535, 65535)]:
            expected = bitstream.payload_bounds(written[name].bitstream, level, Grid(h, w))
            assert spec_decoder.payload_bounds(bundles[name], level, h, w) == expected


@pytest.mark.parametrize("name", TINY)
def test_both_readers_refuse_the_same_payloads(name: str, written: Written, bundles: Bundles) -> None:
    """Bits changed, words cut off and put in, and bytes of chance: the same kind of error."""
    rng, grid = np.random.default_rng(4), Grid(3, 4)
    stream = written[name].bitstream
    sound = encode_payload(drawn(written[name], rng, 2, 3, 4, likely=True), 2, stream)
    payloads = [sound[:cut] for cut in range(len(sound))]
    payloads += [sound[:-4] + bytes(n) + sound[-4:] for n in (1, 4, 8, 400)]
    payloads += each_bit_changed(sound, 5) + [rng.bytes(len(sound)) for _ in range(10)]
    found = [refusal(decode_payload, bundles[name], payload, 2, 3, 4) for payload in payloads]
    assert found == [refusal(bitstream.decode_payload, payload, grid, 2, stream) for payload in payloads]
    assert set(found) == {"PayloadSizeError", "PayloadCorruptError"}


# Negative controls: another prior, and the payloads do not give the stored indices


def _with_stage(prior: ContextPrior, s: int, stage: Stage) -> ContextPrior:
    return dataclasses.replace(prior, stages=(*prior.stages[:s], stage, *prior.stages[s + 1 :]))


def _permuted_order(s: int) -> Callable[[ContextPrior], ContextPrior]:
    def change(prior: ContextPrior) -> ContextPrior:
        stage = prior.stages[s]
        return _with_stage(prior, s, dataclasses.replace(stage, order=(*stage.order[1:], stage.order[0])))

    return change


def _other_weight(prior: ContextPrior) -> ContextPrior:
    weights = (prior.weights[0], prior.weights[1] - 1, *prior.weights[2:])
    return dataclasses.replace(prior, weights=weights)


def _other_shift(prior: ContextPrior) -> ContextPrior:
    return dataclasses.replace(prior, logit_shift=prior.logit_shift ^ 1)


def _other_table(prior: ContextPrior) -> ContextPrior:
    stage = prior.stages[0]
    first, others = stage.groups[0], stage.groups[1:]
    assert first.table is not None
    rolled = dataclasses.replace(first, table=tuple((*row[1:], row[0]) for row in first.table))
    return _with_stage(prior, 0, dataclasses.replace(stage, groups=(rolled, *others)))


def _other_phases(prior: ContextPrior) -> ContextPrior:
    stage = prior.stages[0]
    groups = tuple(dataclasses.replace(group, phases=group.phases[::-1]) for group in stage.groups)
    assert groups != stage.groups
    return _with_stage(prior, 0, dataclasses.replace(stage, groups=groups))


@pytest.mark.parametrize("name", ["released", "planes"])
@pytest.mark.parametrize(
    "change",
    [
        lambda prior: dataclasses.replace(prior, mean_shift=prior.mean_shift ^ 1),
        lambda prior: dataclasses.replace(prior, scale_shift=prior.scale_shift ^ 1),
        lambda prior: dataclasses.replace(prior, tables=(*prior.tables[4:], *prior.tables[:4])),
        lambda prior: dataclasses.replace(prior, first=(*prior.first[1:], prior.first[0])),
    ],
    ids=["mean_shift", "scale_shift", "tables", "first"],
)
def test_another_prior_of_planes_does_not_give_the_stored_indices(
    name: str, change: Callable[[ScalarPrior], ScalarPrior], bundles: Bundles
) -> None:
    bundle = bundles[name]
    assert isinstance(bundle.prior, ScalarPrior)
    other = dataclasses.replace(bundle, prior=change(bundle.prior))
    for level in range(0, len(bundle.rate_levels), 2):
        entry = next(
            e for e in bundle.entries if e.rate_level == level and 100 <= e.h * e.w <= MOST_POSITIONS
        )
        place = level, entry.h, entry.w
        assert packed(decode_payload(bundle, entry.payload, *place)) == entry.indices
        assert refusal(decode_payload, other, entry.payload, *place) == "PayloadCorruptError"


@pytest.mark.parametrize(
    "change",
    [*(_permuted_order(s) for s in range(3)), _other_weight, _other_shift, _other_table, _other_phases],
    ids=["order 0", "order 1", "order 2", "weights", "logit_shift", "table", "phases"],
)
def test_another_prior_does_not_give_the_stored_indices(
    change: Callable[[ContextPrior], ContextPrior], bundles: Bundles
) -> None:
    bundle = bundles["context"]
    assert isinstance(bundle.prior, ContextPrior)
    highest = len(bundle.rate_levels) - 1
    entry = next(e for e in bundle.entries if e.rate_level == highest and 100 <= e.h * e.w <= MOST_POSITIONS)
    place = entry.rate_level, entry.h, entry.w
    assert packed(decode_payload(bundle, entry.payload, *place)) == entry.indices
    other = dataclasses.replace(bundle, prior=change(bundle.prior))
    assert refusal(decode_payload, other, entry.payload, *place) == "PayloadCorruptError"
    try:
        unchecked = spec_decoder.read_indices(other, Decoder(entry.payload[:-4]), *place)
    except PayloadCorruptError:
        return  # the bytes point outside every digit
    assert packed(unchecked) != entry.indices


# .ndsc files


@pytest.mark.parametrize("name", NAMES)
def test_frame_files(name: str, written: Written, bundles: Bundles) -> None:
    bundle, rng = written[name], np.random.default_rng(5)
    for level, (width, height) in enumerate([(1, 1), (61, 37), (64, 72)]):
        grid = bundle.geometry.grid(width, height)
        indices = drawn(bundle, rng, level, grid.height, grid.width, likely=True)
        payload = encode_payload(indices, level, bundle.bitstream)
        data = bitstream.to_bytes(CompressedFrame(bundle.bitstream_id, level, width, height, payload))
        frame = read_frame(data)
        assert frame == spec_decoder.Frame(bundle.bitstream_id, level, width, height, payload)
        assert packed(decode_frame(bundles[name], frame)) == indices.astype("<u2").tobytes()


@pytest.fixture(scope="module")
def frame_file(written: Written) -> bytes:
    """20 × 9 pixels, every index 1, at level 0 of the static prior."""
    bundle = written["static"]
    payload = encode_payload(np.ones((1, 2, 3), np.int32), 0, bundle.bitstream)
    return bitstream.to_bytes(CompressedFrame(bundle.bitstream_id, 0, 20, 9, payload))


def test_damaged_frame_files(frame_file: bytes) -> None:
    cut = [frame_file[:n] for n in range(len(frame_file))]
    for data in [*cut, frame_file + b"\0", *each_bit_changed(frame_file)]:
        assert refusal(read_frame, data) == refusal(bitstream.from_bytes, data) == "FrameFileError"


@pytest.mark.parametrize(
    ("offset", "content", "reason"),
    [
        (0, b"NDSD", "not a"),
        (4, b"\2", "version 2"),
        (4, b"\0", "version 0"),
        (6, b"\0\0", "header"),
        (8, b"\0\0", "header"),
        (26, b"\7", "header"),
        (26, b"\x09", "header"),
    ],
)
def test_wrong_frame_files_of_a_sound_checksum(
    offset: int, content: bytes, reason: str, frame_file: bytes
) -> None:
    body = frame_file[:offset] + content + frame_file[offset + len(content) : -4]
    forged = body + struct.pack("<I", spec_decoder.crc32c(body))
    with pytest.raises(FrameFileError, match=reason):
        read_frame(forged)
    assert refusal(bitstream.from_bytes, forged) == "FrameFileError"


def test_a_frame_file_has_a_largest_size(frame_file: bytes) -> None:
    with pytest.raises(FrameFileError, match="longer"):
        read_frame(frame_file + bytes(1 << 26))


def test_checks_of_a_frame_come_in_order(frame_file: bytes, written: Written, bundles: Bundles) -> None:
    """Section 10: one fault mended, the next one shows."""
    sound = read_frame(frame_file)
    wrong = spec_decoder.Frame(bytes(16), 3, 2049, 1, b"")
    mended: list[tuple[str, Any, type[SpecError]]] = [
        ("bitstream_id", sound.bitstream_id, BitstreamMismatchError),
        ("rate_level", sound.rate_level, RateLevelError),
        ("width", sound.width, GeometryError),
        ("height", sound.height, PayloadSizeError),
        ("payload", sound.payload[:-1] + b"\0", PayloadSizeError),
        ("payload", sound.payload, PayloadCorruptError),
    ]
    for field, value, error in mended:
        assert refusal(decode_frame, bundles["static"], wrong) == error.__name__
        assert refusal(_codec_decode, written["static"].bitstream, wrong) == error.__name__
        wrong = dataclasses.replace(wrong, **{field: value})
    assert decode_frame(bundles["static"], wrong) == [[1] * 6]


def _codec_decode(stream: bitstream.Bitstream, frame: spec_decoder.Frame) -> None:
    stream.check_id(frame.bitstream_id)
    stream.stages_sent(frame.rate_level)
    grid = stream.geometry.grid(frame.width, frame.height)
    bitstream.decode_payload(frame.payload, grid, frame.rate_level, stream)


def test_limits_of_the_geometry(written: Written, bundles: Bundles) -> None:
    """2048 a side, 2^20 pixels, stride 8."""
    bundle = bundles["static"]
    assert spec_decoder.grid(bundle, 2048, 512) == (64, 256)
    assert spec_decoder.grid(bundle, 17, 1) == (1, 3)
    for size in [(2049, 1), (1, 2049), (2048, 513), (0, 5), (5, 0)]:
        with pytest.raises(GeometryError):
            spec_decoder.grid(bundle, *size)
        with pytest.raises(errors.GeometryError):
            written["static"].geometry.grid(*size)
