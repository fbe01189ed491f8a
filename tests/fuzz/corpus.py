"""The corpus: damaged inputs as files, each with the outcome it must have for the tiny bundle of the tests.

`python -m tests.fuzz.corpus` writes `corpus/` anew from the recipes below. The outcomes are written down here and
never taken from the decoder, so that a fault of it cannot become what is expected. What the fuzzer finds in the
codec gets a recipe here too.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ndsc.codec.bitstream import (
    PAYLOAD_CRC_BYTES,
    Bitstream,
    CompressedFrame,
    encode_payload,
    payload_bounds,
    to_bytes,
)
from ndsc.codec.bundle import BitstreamFacts
from ndsc.codec.frames import Geometry, Grid
from ndsc.codec.prior import StaticPrior
from tests.fuzz.mutants import HEADER_BYTES, sealed
from tests.fuzz.sound import Indices
from tests.tiny_bundle import CODEBOOK_SIZES, RATE_LEVELS, STRIDE

CORPUS: Final = Path(__file__).parent / "corpus"
INDEX: Final = CORPUS / "index.json"
REGENERATE: Final = "python -m tests.fuzz.corpus"
EXACT: Final = "exact indices"

_GRID, _LARGE = Grid(3, 5), Grid(16, 32)
_SIZE, _CORRUPT = "PayloadSizeError", "PayloadCorruptError"
_FILE, _MISMATCH = "FrameFileError", "BitstreamMismatchError"
_LEVEL, _GEOMETRY = "RateLevelError", "GeometryError"


class Case(BaseModel):
    """One input, as the index tells of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    file: Annotated[str, Field(pattern=r"^[a-z0-9-]+\.(payload|ndsc)$")]
    """Named by what it is."""
    outcome: str
    """Class of the error, or `EXACT`."""
    rate_level: int | None = None
    """What a payload is said to be; a `.ndsc` file says it itself."""
    grid: tuple[int, int] | None = None
    """Height and width."""
    indices_sha256: str | None = None
    """Of the exact indices as u16, little-endian, stage by stage."""


class Index(BaseModel):
    """The content of `corpus/index.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bitstream_id: str
    cases: list[Case]


@dataclass(frozen=True)
class Corpus:
    """What the folder holds, made or read."""

    index: Index
    data: dict[str, bytes]
    """By file name."""


def tiny_bitstream() -> Bitstream:
    """What the bits of the tiny bundle mean; a test holds it to the bundle itself."""
    prior = StaticPrior.from_counts([np.arange(1, size + 1) for size in CODEBOOK_SIZES])
    facts = BitstreamFacts(
        format_version=1,
        stride=STRIDE,
        codebook_sizes=list(CODEBOOK_SIZES),
        rate_levels=list(RATE_LEVELS),
        max_side=2048,
        max_pixels=1 << 20,
        prior_sha256=hashlib.sha256(prior.files()["prior.json"]).hexdigest(),
    )
    geometry = Geometry(facts.stride, facts.max_side, facts.max_pixels)
    return Bitstream(facts.bitstream_id, geometry, prior, RATE_LEVELS)


def make(bitstream: Bitstream) -> Corpus:
    """The corpus for the tiny bundle's bitstream."""
    cases, data = [], {}
    for case, content in (*_payloads(bitstream), *_files(bitstream)):
        if case.file in data:
            raise ValueError(f"two cases are called {case.file}")
        cases.append(case)
        data[case.file] = content
    return Corpus(Index(bitstream_id=bitstream.bitstream_id.hex(), cases=cases), data)


def read() -> Corpus:
    """The corpus on disk. Raises ValueError when it is not whole."""
    try:
        index = Index.model_validate_json(INDEX.read_bytes())
        return Corpus(index, {case.file: (CORPUS / case.file).read_bytes() for case in index.cases})
    except (OSError, ValueError) as error:
        raise ValueError(f"the corpus cannot be read; run `{REGENERATE}`: {error}") from error


def write(corpus: Corpus) -> None:
    """Put a corpus in the place of the one on disk."""
    CORPUS.mkdir(exist_ok=True)
    for old in CORPUS.iterdir():
        old.unlink()
    for name, data in corpus.data.items():
        (CORPUS / name).write_bytes(data)
    INDEX.write_text(corpus.index.model_dump_json(indent=1, exclude_none=True) + "\n")


def digest(indices: Indices) -> str:
    """How the index tells indices apart."""
    return hashlib.sha256(indices.astype("<u2").tobytes()).hexdigest()


def _indices(level: int, grid: Grid, step: int = 5) -> Indices:
    """Every index of every codebook, in an order that depends on `step`."""
    stages = [
        (np.arange(grid.positions) * step + stage) % size
        for stage, size in enumerate(CODEBOOK_SIZES[: RATE_LEVELS[level]])
    ]
    return np.stack(stages).reshape(-1, grid.height, grid.width).astype(np.int32)


def _one_changed(stage: int, position: int) -> Indices:
    indices = _indices(1, _GRID)
    indices.reshape(len(indices), -1)[stage, position] ^= 1
    return indices


def _flipped(data: bytes, *bits: int) -> bytes:
    """Bit 0 is the lowest of the first byte; negative numbers count from the end."""
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _payloads(bitstream: Bitstream) -> Iterator[tuple[Case, bytes]]:
    def case(
        name: str, data: bytes, outcome: str, level: int, grid: Grid = _GRID, exact: Indices | None = None
    ) -> tuple[Case, bytes]:
        sides = (grid.height, grid.width)
        known = None if exact is None else digest(exact)
        described = Case(
            file=f"{name}.payload", outcome=outcome, rate_level=level, grid=sides, indices_sha256=known
        )
        return described, data

    for grid in (Grid(1, 1), _GRID, _LARGE):
        for level in range(len(RATE_LEVELS)):
            indices = _indices(level, grid)
            name = f"sound-level-{level}-grid-{grid.height}x{grid.width}"
            yield case(name, encode_payload(indices, level, bitstream), EXACT, level, grid, indices)

    sound = encode_payload(_indices(1, _GRID), 1, bitstream)
    other = encode_payload(_indices(1, _GRID, step=3), 1, bitstream)
    near = encode_payload(_one_changed(0, 0), 1, bitstream)
    late = encode_payload(_one_changed(-1, -1), 1, bitstream)
    coded, crc = sound[:-PAYLOAD_CRC_BYTES], sound[-PAYLOAD_CRC_BYTES:]
    longest = payload_bounds(bitstream, 1, _GRID)[1]
    elsewhere = replace(bitstream, bitstream_id=bytes(16))

    damaged: dict[str, tuple[bytes, str]] = {
        "empty": (b"", _SIZE),
        "checksum-alone": (crc, _SIZE),
        "one-byte-short": (sound[:-1], _SIZE),
        "one-byte-more": (sound + b"\0", _SIZE),
        "longer-than-any": (coded + bytes(longest - len(sound) + 4) + crc, _SIZE),
        "as-long-as-any": (coded + bytes(longest - len(sound)) + crc, _CORRUPT),
        "last-coded-word-missing": (coded[:-4] + crc, _CORRUPT),
        "first-coded-word-missing": (coded[4:] + crc, _CORRUPT),
        "checksum-missing": (coded, _CORRUPT),
        "checksum-twice": (sound + crc, _CORRUPT),
        "word-of-zeros-before-checksum": (coded + bytes(4) + crc, _CORRUPT),
        "word-of-zeros-in-front": (bytes(4) + sound, _CORRUPT),
        "first-bit-flipped": (_flipped(sound, 0), _CORRUPT),
        "highest-bit-of-first-word-flipped": (_flipped(sound, 31), _CORRUPT),
        "spare-bit-of-last-coded-word-flipped": (_flipped(sound, 8 * len(coded) - 32), _CORRUPT),
        "bit-of-checksum-flipped": (_flipped(sound, 8 * len(coded) + 7), _CORRUPT),
        "one-bit-of-each-byte-flipped": (_flipped(sound, *range(0, 8 * len(sound), 9)), _CORRUPT),
        "zeros": (bytes(len(sound)), _CORRUPT),
        "ones": (b"\xff" * len(sound), _CORRUPT),
        "zeros-under-the-checksum": (bytes(len(coded)) + crc, _CORRUPT),
        "ones-under-the-checksum": (b"\xff" * len(coded) + crc, _CORRUPT),
        "words-turned-around": (sound[8:12] + sound[4:8] + sound[:4] + sound[12:], _CORRUPT),
        "bytes-of-words-turned-around": (np.frombuffer(sound, "<u4").astype(">u4").tobytes(), _CORRUPT),
        "checksum-of-near-indices": (coded + near[-PAYLOAD_CRC_BYTES:], _CORRUPT),
        "spliced-with-another": (sound[:8] + other[8:], _CORRUPT),
        "spliced-with-near-indices": (near[: len(near) - 8] + sound[len(sound) - 8 :], _CORRUPT),
        "of-another-bitstream-id": (encode_payload(_indices(1, _GRID), 1, elsewhere), _CORRUPT),
    }
    for name, (data, outcome) in damaged.items():
        yield case(name, data, outcome, 1)
    restored = late[: len(late) - 8] + sound[len(sound) - 8 :]
    yield case("spliced-back-to-the-sound-one", restored, EXACT, 1, exact=_indices(1, _GRID))
    yield case("said-to-be-of-level-0", sound, _CORRUPT, 0)
    yield case("said-to-be-of-level-2", sound, _CORRUPT, 2)
    yield case("said-to-be-of-level-3", sound, _LEVEL, 3)
    yield case("said-to-be-of-grid-5x3", sound, _CORRUPT, 1, Grid(5, 3))
    yield case("said-to-be-of-grid-1x15", sound, _CORRUPT, 1, Grid(1, 15))
    yield case("said-to-be-of-grid-1x1", sound, _SIZE, 1, Grid(1, 1))
    yield case("said-to-be-of-grid-16x32", sound, _SIZE, 1, _LARGE)


def _files(bitstream: Bitstream) -> Iterator[tuple[Case, bytes]]:
    def case(name: str, data: bytes, outcome: str, exact: Indices | None = None) -> tuple[Case, bytes]:
        known = None if exact is None else digest(exact)
        return Case(file=f"{name}.ndsc", outcome=outcome, indices_sha256=known), data

    indices = _indices(1, _GRID)
    payload = encode_payload(indices, 1, bitstream)
    frame = CompressedFrame(bitstream.bitstream_id, 1, _GRID.width * STRIDE, _GRID.height * STRIDE, payload)
    sound = to_bytes(frame)
    body = sound[:-4]
    yield case("sound", sound, EXACT, indices)
    smaller = replace(frame, width=frame.width - 7, height=frame.height - 7)
    yield case("sound-of-no-whole-strides", to_bytes(smaller), EXACT, indices)

    unsealed = {
        "empty": b"",
        "magic-alone": sound[:4],
        "header-alone": sound[:HEADER_BYTES],
        "no-checksum": body,
        "one-byte-short": sound[:-1],
        "one-byte-more": sound + b"\0",
        "twice": sound + sound,
        "bit-of-width-flipped": _flipped(sound, 8 * 6),
        "bit-of-payload-flipped": _flipped(sound, 8 * HEADER_BYTES),
        "bit-of-checksum-flipped": _flipped(sound, 8 * len(sound) - 1),
        "zeros": bytes(len(sound)),
        "zeros-after-magic": sound[:5] + bytes(len(sound) - 5),
    }
    for name, data in unsealed.items():
        yield case(name, data, _FILE)

    def header(start: int, value: bytes) -> bytes:
        return sealed(body[:start] + value + body[start + len(value) :])

    def sides(width: int, height: int) -> bytes:
        return header(6, struct.pack("<HH", width, height))

    resealed = {
        "other-magic": (header(0, b"NDSD"), _FILE),
        "version-0": (header(4, b"\0"), _FILE),
        "version-2": (header(4, b"\2"), _FILE),
        "no-width": (sides(0, frame.height), _FILE),
        "no-height": (sides(frame.width, 0), _FILE),
        "payload-length-less": (header(26, struct.pack("<I", len(payload) - 4)), _FILE),
        "payload-length-more": (header(26, struct.pack("<I", len(payload) + 4)), _FILE),
        "payload-length-most": (header(26, b"\xff" * 4), _FILE),
        "bytes-after-payload": (sealed(body + bytes(4)), _FILE),
        "other-bitstream-id": (header(10, bytes(16)), _MISMATCH),
        "level-0": (header(5, b"\0"), _CORRUPT),
        "level-2": (header(5, b"\2"), _CORRUPT),
        "level-3": (header(5, b"\3"), _LEVEL),
        "level-255": (header(5, b"\xff"), _LEVEL),
        "wider-than-any": (sides(2049, 8), _GEOMETRY),
        "more-pixels-than-any": (sides(2048, 2048), _GEOMETRY),
        "largest-sides": (sides(0xFFFF, 0xFFFF), _GEOMETRY),
        "largest-frame": (sides(2048, 512), _SIZE),
        "one-stride-wider": (sides(frame.width + 1, frame.height), _CORRUPT),
        "turned": (sides(frame.height, frame.width), _CORRUPT),
        "empty-payload": (to_bytes(replace(frame, payload=b"")), _SIZE),
        "payload-of-zeros": (to_bytes(replace(frame, payload=bytes(len(payload)))), _CORRUPT),
        "payload-bit-flipped": (to_bytes(replace(frame, payload=_flipped(payload, 77))), _CORRUPT),
        "payload-word-more": (to_bytes(replace(frame, payload=payload + bytes(4))), _CORRUPT),
    }
    for name, (data, outcome) in resealed.items():
        yield case(f"sealed-{name}", data, outcome)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the corpus."""
    if arguments:
        print(f"usage: {REGENERATE}", file=sys.stderr)
        return 2
    corpus = make(tiny_bitstream())
    write(corpus)
    size = sum(map(len, corpus.data.values()))
    print(f"{len(corpus.data)} inputs, {size} bytes, for bitstream {corpus.index.bitstream_id}, in {CORPUS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
