"""A short run of the fuzzer, and proof that it can fail."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ndsc.codec import bitstream, entropy
from ndsc.codec.bitstream import Bitstream, decode_payload, encode_payload, from_bytes, to_bytes
from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import FrameFileError, PayloadCorruptError, PayloadSizeError
from ndsc.codec.frames import Grid
from ndsc.codec.prior import StaticPrior
from tests.fuzz.__main__ import main
from tests.fuzz.corpus import tiny_bitstream
from tests.fuzz.fuzzer import ALSO_SOUND, UNCHANGED, Fuzzer
from tests.fuzz.memory import measured, resident_bound, traced_bound
from tests.fuzz.mutants import DAMAGES, HEADER_FIELDS, Mutator, sealed
from tests.fuzz.sound import Indices, Pool

DEFAULT_BUNDLE: Final = Path(__file__).parents[2] / "models" / "default"
MUTANTS: Final = 1500
TINY: Final = tiny_bitstream()


@pytest.fixture(scope="module")
def tiny_pool(tiny_bundle: Bundle) -> Pool:
    return Pool(tiny_bundle, frames=2, draws=2)


@pytest.mark.parametrize("name", ["released", "context"])
def test_no_mutant_gets_through(name: str, context_bundle: Bundle) -> None:
    bundle = Bundle.load(DEFAULT_BUNDLE) if name == "released" else context_bundle
    fuzzer = Fuzzer(Pool(bundle, frames=2, draws=2), seed=1)
    tally = fuzzer.run(range(MUTANTS))
    assert not tally.escapes
    assert tally.total == MUTANTS
    # The mutants are of use: every check refuses some, and most reach the range coder.
    outcomes = {outcome: 0 for _, outcome in tally.outcomes}
    for (_, outcome), count in tally.outcomes.items():
        outcomes[outcome] += count
    assert set(outcomes) == {
        "FrameFileError",
        "BitstreamMismatchError",
        "RateLevelError",
        "GeometryError",
        "PayloadSizeError",
        "PayloadCorruptError",
        UNCHANGED,
        ALSO_SOUND,
    }
    assert outcomes["PayloadCorruptError"] > MUTANTS / 2
    kinds = {kind for kind, _ in tally.outcomes}
    assert {f"payload: {name}" for name in DAMAGES} <= kinds
    assert {f"file, sealed: other {name}" for name in HEADER_FIELDS} <= kinds


def test_a_seed_and_a_number_make_one_mutant(tiny_pool: Pool) -> None:
    first, second = Mutator(tiny_pool, 3), Mutator(tiny_pool, 3)
    forwards = [first.make(number) for number in range(300)]
    backwards = [second.make(number) for number in reversed(range(300))]
    assert forwards == backwards[::-1]
    other = [Mutator(tiny_pool, 4).make(number) for number in range(300)]
    assert sum(a == b for a, b in zip(forwards, other, strict=True)) < 30


class _FitsEverything(int):
    """A checksum that no checksum differs from."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def without_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bitstream._indices_crc
    monkeypatch.setattr(bitstream, "_indices_crc", lambda *of: _FitsEverything(real(*of)))


def without_canonical_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(
        prior: StaticPrior, coded: bytes, stages: int, height: int, width: int, _level: int = 0
    ) -> Indices:
        decoded = entropy.decode(coded, [height * width] * stages, prior.frequencies)
        return np.stack(decoded).reshape(stages, height, width)

    monkeypatch.setattr(StaticPrior, "decode", decode)


def without_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the check nor under the checksum."""
    real = bitstream._indices_crc

    def crc(indices: Indices, rate_level: int, stream: Bitstream) -> int:
        return real(indices, rate_level, replace(stream, bitstream_id=bytes(16)))

    monkeypatch.setattr(bitstream, "_indices_crc", crc)
    monkeypatch.setattr(Bitstream, "check_id", lambda *_: None)


def greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that takes memory by what the payload says, here its first byte."""
    real = StaticPrior.decode

    def decode(
        prior: StaticPrior, coded: bytes, stages: int, height: int, width: int, _level: int = 0
    ) -> Indices:
        np.ones((coded[0] if coded else 0, 1 << 17), np.uint8)
        return real(prior, coded, stages, height, width)

    monkeypatch.setattr(StaticPrior, "decode", decode)


def with_a_foreign_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitstream, "PayloadCorruptError", IndexError)


BREAKS: Final[dict[Callable[[pytest.MonkeyPatch], None], str]] = {
    without_checksum: "indices for bytes that no encoder made",
    without_canonical_form: "indices for bytes that no encoder made",
    without_id: "indices for bytes that no encoder made",
    greedy: "bytes",
    with_a_foreign_error: "IndexError",
}


@pytest.mark.parametrize(
    ("break_it", "reason"), BREAKS.items(), ids=lambda each: getattr(each, "__name__", "")
)
def test_a_broken_decoder_is_noticed(
    tiny_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    break_it(monkeypatch)
    tally = Fuzzer(Pool(tiny_bundle, frames=1, draws=2), seed=0).run(range(600))
    assert tally.escaped >= 3
    assert any(reason in escape.reason for escape in tally.escapes)


def test_the_command_reports_and_stores_escapes(
    tiny_bundle_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*more: str) -> int:
        return main(["--bundle", str(tiny_bundle_path), "-o", str(tmp_path / "fuzz.json"), *more])

    def report() -> dict[str, Any]:
        content: dict[str, Any] = json.loads((tmp_path / "fuzz.json").read_text())
        return content

    assert run("--count", "700") == 0
    sound = report()
    assert (sound["mutants"], sound["escaped"], sound["escapes"]) == (700, 0, [])
    assert sum(sound["outcomes"].values()) == 700
    assert not (tmp_path / "fuzz-escapes").exists()
    assert run("--count", "700", "--processes", "2") == 0
    assert report()["outcomes_by_kind"] == sound["outcomes_by_kind"]

    def without_checks(payload: bytes, grid: Grid, level: int, stream: Bitstream) -> Indices:
        return stream.prior.decode(payload[:-4], stream.stages_sent(level), grid.height, grid.width)

    # Not where the bundle's golden vectors are checked: they would notice.
    monkeypatch.setattr(bitstream, "decode_payload", without_checks)
    assert run("--count", "300") == 1
    escaped = report()
    assert escaped["escaped"] > 0
    number = escaped["escapes"][0].split(":")[0]
    (stored,) = (tmp_path / "fuzz-escapes").glob(f"0-{number}.[pn]*")
    facts = json.loads(stored.with_suffix(".json").read_text())
    assert facts["again"].endswith(f"--only {number}")
    assert run("--only", number) == 1
    monkeypatch.undo()
    assert run("--only", number) == 0
    assert f"--only {number}" in facts["again"]

    assert main(["--bundle", str(tmp_path), "-o", str(tmp_path / "other.json")]) == 2
    assert "error:" in capsys.readouterr().err


def test_the_memory_bounds_are_of_use(tiny_bundle: Bundle, context_bundle: Bundle) -> None:
    """They hold for a large grid, and what Python allocates is no less than a sixth of its own."""
    for bundle in (tiny_bundle, context_bundle, Bundle.load(DEFAULT_BUNDLE)):
        stream, level = bundle.bitstream, bundle.rate_level_count - 1
        grid = Grid(64, 128)
        indices = stream.prior.sample(
            np.random.default_rng(0), stream.stages_sent(level), grid.height, grid.width, level
        )
        sound = encode_payload(indices, level, stream)
        data = sound[:-1] + bytes([sound[-1] ^ 1])  # refused as late as can be
        for traced in (False, True):
            with measured(traced=traced) as peak, pytest.raises(PayloadCorruptError):
                decode_payload(data, grid, level, stream)
            assert peak.resident <= resident_bound(stream, level, grid, len(data))
        assert peak.traced is not None
        bound = traced_bound(stream, level, grid, len(data))
        assert bound / 6 <= peak.traced <= bound


@given(st.binary(max_size=200))
@example(b"NDSC")
@example(b"NDSC\1")
@example(b"NDSC\1" + bytes(60))
def test_no_file_is_made_of_any_bytes(data: bytes) -> None:
    for candidate in (data, b"NDSC\1" + data):
        with pytest.raises(FrameFileError):
            from_bytes(candidate)


@given(st.binary(max_size=40), st.integers(-2, 2), st.binary(max_size=9))
def test_a_sealed_file_is_read_only_as_it_would_be_written(payload: bytes, more: int, data: bytes) -> None:
    """Whatever the header says: the file is refused, or the frame becomes the same bytes again."""
    length = max(0, len(payload) + more)
    body = b"NDSC\1" + data.ljust(21, b"\1") + struct.pack("<I", length) + payload
    try:
        frame = from_bytes(sealed(body))
    except FrameFileError:
        # Or one of its sides is 0.
        assert length != len(payload) or b"\0\0" in body[6:10]
    else:
        assert length == len(payload)
        assert to_bytes(frame) == sealed(body)


@settings(deadline=None)
@given(
    st.binary(max_size=120),
    st.integers(0, 2),
    st.builds(Grid, st.integers(1, 20), st.integers(1, 20)),
)
def test_no_payload_is_made_of_any_bytes(data: bytes, level: int, grid: Grid) -> None:
    with pytest.raises((PayloadSizeError, PayloadCorruptError)):
        decode_payload(data, grid, level, TINY)
