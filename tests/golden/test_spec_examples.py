"""Every worked example of proto/SPEC.md: those of section 13, and the small ones of sections 5 and 7."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
import pytest

from tests.golden import spec_bundle, spec_decoder
from tests.golden.spec_bundle import Group
from tests.golden.spec_decoder import Decoder, Encoder, decode_frame, decode_payload, read_frame
from tests.golden.spec_errors import PayloadCorruptError
from tests.golden.spec_json import canonical

WEIGHTS: Final = [65536, 39750, 24109, 14623, 8869, 5380]
FREQUENCIES: Final = [4206, 31062, 18841, 11427]
EDGES: Final = [0, 1076736, 9028607, 13851903, 16777216]


def coded(digits: Sequence[int], edge: Sequence[int]) -> bytes:
    return spec_decoder.encode((edge[j], edge[j + 1]) for j in digits)


def test_checksum_of_the_check_string() -> None:
    assert spec_decoder.crc32c(b"123456789") == 0xE3069283


def test_rounding_of_section_7_3() -> None:
    assert spec_decoder.round_sums(np.array([-7, -6, -1]), 2).tolist() == [-2, -1, 0]


def test_coding_order_of_section_7_1() -> None:
    groups = {
        "A": Group(1, ((0, 0),), None),
        "B": Group(1, ((1, 1),), None),
        "C": Group(1, ((0, 1), (1, 0)), None),
        "D": Group(0, ((1, 1),), None),
        "E": Group(0, ((0, 1),), None),
        "F": Group(0, ((1, 0),), None),
    }
    table = [[""] * 5 for _ in range(3)]
    number = 0
    for name, group in groups.items():
        for _, _, _, y, x in spec_decoder.positions(group, 3, 5):
            number += 1
            table[y][x] = f"{name} {number}"
    assert table == [
        ["A 1", "E 9", "C 4", "E 10", "A 2"],
        ["F 13", "D 7", "F 14", "D 8", "F 15"],
        ["C 5", "E 11", "B 3", "E 12", "C 6"],
    ]
    stage = spec_bundle.Stage(4, 0, (0, 1, 2, 3), tuple(groups.values()))
    assert stage.known(4) == [(0, 0), (1, 1)]
    labels = spec_decoder.Labels([4], 3, 5)
    labels.known = {(0, 1, 1): 2, (0, 1, 3): 3}
    assert labels.plane(0, 1, 1, 2, 2, 3) == [[2, 3, 4], [4, 4, 4]]


def test_frequencies_of_section_13_1() -> None:
    x = spec_decoder.round_sums(np.array([-7, 7, 2, -1]), 2).tolist()
    assert x == [-2, 2, 1, 0]
    v = [WEIGHTS[max(x) - x_j] for x_j in x]
    assert v == [8869, 65536, 39750, 24109]
    assert sum(v) == 138264
    assert [v_j * 65532 // 138264 for v_j in v] == [4203, 31061, 18840, 11426]
    assert spec_decoder.frequencies(x, WEIGHTS) == FREQUENCIES
    assert FREQUENCIES[0] == 4203 + 1 + 2
    assert spec_decoder.edges(FREQUENCIES) == EDGES


def test_one_word_of_section_13_2() -> None:
    encoder = Encoder()
    assert encoder.width == 0xFFFFFFFFFFFFFFFF
    rows = [
        (2, 0xFFFFFFFFFF, 0x89C3FEFFFF763C01, 0x4998FFFFFFB66700),
        (0, 0x4998FFFFFF, 0x89C3FEFFFF763C01, 0x04B92FBDFFEF9200),
        (3, 0x04B92FBDFF, 0x8DAA589B37792102, 0x00D2D622C6FD1AFF),
    ]
    for digit, unit, low, width in rows:
        assert encoder.width >> 24 == unit
        encoder.digit(EDGES[digit], EDGES[digit + 1])
        assert (encoder.low, encoder.width) == (low, width)
    assert (encoder.low + encoder.width) >> 32 == 0x8E7D2EBD
    assert encoder.end() == bytes.fromhex("9c 58 aa 8d")
    decoder = Decoder(bytes.fromhex("9c 58 aa 8d"))
    assert [decoder.digit(EDGES) for _ in range(3)] == [2, 0, 3]


def test_words_and_carries_of_section_13_3() -> None:
    edge = spec_decoder.edges([1, 65533, 1, 1])
    assert edge == [0, 256, 16776702, 16776959, 16777216]
    encoder = Encoder()
    for j in (3, 0):
        encoder.digit(edge[j], edge[j + 1])
    width = (encoder.width >> 24) * (edge[3] - edge[2])
    encoder.digit(edge[2], edge[3])
    assert width == 0x10100
    assert (encoder.words, encoder.low, encoder.width) == ([0xFFFEFF00], 0xFEFDFF0100000000, width << 32)
    assert encoder.end() == bytes.fromhex("00 ff fe ff  01 ff fd fe")
    encoder = Encoder()
    for j in (0, 1, 0, 1):
        encoder.digit(edge[j], edge[j + 1])
    assert encoder.words == [0]
    assert encoder.end() == bytes.fromhex("01 00 00 00  fd fe 00 00")
    assert coded([0, 2], edge) == bytes.fromhex("fe ff 00 00  00 00 00 00")
    decoder = Decoder(bytes.fromhex("fe ff 00 00"))
    assert [decoder.digit(edge) for _ in range(2)] == [0, 2]


PRIOR: Final = (
    b'{"frequencies":[[32768,16384,8192,8192],[65533,1,1,1]],"frequency_bits":16,"kind":"static-table"}'
)
BITSTREAM: Final = (
    b'{"codebook_sizes":[4,4],"format_version":1,"max_pixels":4096,"max_side":64,"prior_sha256":'
    b'"6ec2b769130b92a135abf0d7aa2c9ee7db6f465ad71bd1519ca0625d7904d19d","rate_levels":[1,2],"stride":8}'
)
PAYLOAD: Final = bytes.fromhex("a5 fe 7f 5b 03 0c c6 76")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> spec_bundle.Bundle:
    """The bundle of section 13.4, its facts in another order and with white space."""
    path = tmp_path_factory.mktemp("example")
    vector = {"rate_level": 0, "grid": [2, 3], "payload": PAYLOAD.hex()}
    golden = {
        "entries": [vector | {"indices": "AAABAAIAAwAAAAAA"}],
        "damaged": [vector | {"payload": "", "damage": "nothing", "error": "PayloadSizeError"}],
    }
    files = {
        "prior.json": PRIOR,
        "golden.json": json.dumps(golden).encode(),
        "encoder.onnx": b"none",
        "decoder.onnx": b"none",
    }
    listed = {n: {"sha256": hashlib.sha256(d).hexdigest(), "bytes": len(d)} for n, d in files.items()}
    manifest = {
        "name": "example",
        "bitstream": dict(reversed(json.loads(BITSTREAM).items())),
        "files": listed,
        "format_version": 1,
        "opset": 20,
        "ir_version": 10,
        "training": {},
        "licence": "Apache-2.0",
    }
    for name, data in files.items():
        (path / name).write_bytes(data)
    (path / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return spec_bundle.read_bundle(path)


def test_ids_of_section_13_4(example: spec_bundle.Bundle) -> None:
    assert canonical(dict(reversed(json.loads(BITSTREAM).items()))) == BITSTREAM
    assert hashlib.sha256(BITSTREAM).digest()[:16] == example.bitstream_id
    assert example.bitstream_id == bytes.fromhex("64b38a758fe7ef74731377c849c9ba10")
    assert spec_decoder.grid(example, 20, 9) == (2, 3)
    least_bits, most_bits = spec_decoder.bits(example, 0, 2, 3)
    assert (round(least_bits, 1), int(most_bits * 100)) == (6.0, 1803)
    assert spec_decoder.payload_bounds(example, 0, 2, 3) == (8, 16)
    assert spec_decoder.payload_bounds(example, 1, 2, 3) == (8, 28)


def test_payload_and_file_of_section_13_4(example: spec_bundle.Bundle) -> None:
    indices = [0, 1, 2, 3, 0, 0]
    assert coded(indices, spec_decoder.edges([32768, 16384, 8192, 8192])) == bytes.fromhex("a5 fe 7f 5b")
    covered = bytes.fromhex(
        "64 b3 8a 75 8f e7 ef 74 73 13 77 c8 49 c9 ba 10  00  02 00  03 00 \n"
        "00 00 01 00 02 00 03 00 00 00 00 00"
    )
    assert spec_decoder.crc32c(covered) == 0x76C60C03
    assert spec_decoder.checksum(example, 0, 2, 3, [indices]) == PAYLOAD[4:]
    file = bytes.fromhex(
        "4e 44 53 43  01  00  14 00  09 00  64 b3 8a 75 8f e7 ef 74 73 13 77 c8 49 c9 ba 10"
        "08 00 00 00  a5 fe 7f 5b 03 0c c6 76  41 a0 4a bd"
    )
    frame = read_frame(file)
    assert (frame.rate_level, frame.width, frame.height, frame.payload) == (0, 20, 9, PAYLOAD)
    assert decode_frame(example, frame) == [indices]
    assert example.entries[0].indices == struct.pack("<6H", *indices)
    spare = dataclasses.replace(frame, payload=bytes.fromhex("a6 fe 7f 5b 03 0c c6 76"))
    with pytest.raises(PayloadCorruptError, match="canonical"):
        decode_frame(example, spare)
    assert spec_decoder.read_indices(example, Decoder(spare.payload[:-4]), 0, 2, 3) == [indices]
    both = decode_payload(example, bytes.fromhex("84 fc 9f 5b d8 da f0 d8"), 1, 2, 3)
    assert both == [indices, [0, 0, 0, 0, 0, 2]]
