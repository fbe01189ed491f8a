"""The corpus, replayed: every input gives what the index says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndsc.codec.bitstream import decode_payload, read_frame_file
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder
from ndsc.codec.errors import NdscError
from ndsc.codec.frames import Grid
from tests.fuzz import corpus
from tests.fuzz.corpus import CORPUS, EXACT, INDEX, REGENERATE, Case
from tests.fuzz.sound import Indices

ON_DISK = corpus.read()
STALE = f"the corpus is not what its recipes make of the tiny bundle; if that was meant, run `{REGENERATE}`"


@pytest.fixture(scope="module")
def decoder(tiny_bundle: Bundle) -> FrameDecoder:
    return FrameDecoder(tiny_bundle)


def test_the_corpus_is_of_the_tiny_bundle(tiny_bundle: Bundle) -> None:
    assert corpus.tiny_bitstream().bitstream_id == tiny_bundle.bitstream_id, (
        "tests.fuzz.corpus.tiny_bitstream is not that of tests.tiny_bundle.parts; make them alike"
    )
    assert ON_DISK.index.bitstream_id == tiny_bundle.bitstream_id.hex(), STALE


def test_the_files_are_those_that_the_recipes_make(tiny_bundle: Bundle) -> None:
    made = corpus.make(tiny_bundle.bitstream)
    assert made.index == ON_DISK.index, STALE
    changed = [name for name, data in made.data.items() if ON_DISK.data[name] != data]
    assert not changed, STALE
    on_disk = {path.name for path in CORPUS.iterdir()}
    assert on_disk == {INDEX.name, *made.data}, STALE


@pytest.mark.parametrize("case", ON_DISK.index.cases, ids=lambda case: case.file)
def test_outcome(case: Case, tiny_bundle: Bundle, decoder: FrameDecoder) -> None:
    def decode() -> Indices:
        path = CORPUS / case.file
        if case.grid is None or case.rate_level is None:
            return decoder.unpack(read_frame_file(path)).stages
        return decode_payload(path.read_bytes(), Grid(*case.grid), case.rate_level, tiny_bundle.bitstream)

    if case.outcome == EXACT:
        assert corpus.digest(decode()) == case.indices_sha256
    else:
        with pytest.raises(NdscError) as caught:
            decode()
        assert type(caught.value).__name__ == case.outcome
        assert "\n" not in str(caught.value)


def test_every_outcome_is_in_the_corpus() -> None:
    assert {case.outcome for case in ON_DISK.index.cases} == {
        EXACT,
        "FrameFileError",
        "BitstreamMismatchError",
        "RateLevelError",
        "GeometryError",
        "PayloadSizeError",
        "PayloadCorruptError",
    }


def test_writing_it_anew_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(corpus, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(corpus, "INDEX", tmp_path / "corpus" / "index.json")
    assert corpus.main([]) == 0
    assert corpus.read() == ON_DISK
    assert corpus.main(["more"]) == 2
