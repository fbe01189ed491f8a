"""Several frames in one run of a pass give the sums that each gives alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ndsc.codec import onnx_graph
from ndsc.codec.bitstream import Bitstream, encode_payload
from ndsc.codec.runtime import PriorSession
from tests.exactness.comparison import Outcome, one
from tests.exactness.reference import Entry, Reference
from tests.exactness.sessions import Feeds, MakeSession, Session, with_sessions

Runs = dict[str, tuple[Feeds, NDArray[np.float32]]]
"""Of each pass what it was fed and what it gave."""


def codec_session(onnx_bytes: bytes, name: str) -> Session:
    """A session as the codec makes it."""
    return PriorSession(onnx_bytes, name, tuple(onnx_graph.read(onnx_bytes, name).inputs))


class _Recorder:
    def __init__(self, session: Session, name: str, runs: Runs) -> None:
        self.session, self._name, self._runs = session, name, runs

    def run(self, feeds: Feeds) -> NDArray[np.float32]:
        sums = self.session.run(feeds)
        self._runs[self._name] = {name: array.copy() for name, array in feeds.items()}, sums
        return sums


class Batches:
    """Runs single frames, then the same ones `size` at a time."""

    def __init__(self, bitstream: Bitstream, size: int, make: MakeSession = codec_session) -> None:
        self._size = size
        self._runs: Runs = {}
        self._recorders: dict[str, _Recorder] = {}

        def recorder(onnx_bytes: bytes, name: str) -> Session:
            self._recorders[name] = _Recorder(make(onnx_bytes, name), name, self._runs)
            return self._recorders[name]

        self._bitstream = with_sessions(bitstream, recorder)

    def compare(self, reference: Reference) -> Outcome:
        """Frames that were in a batch, and the mismatches among them.

        Frames of one level and grid fill a batch in their order; the last batch takes in earlier ones again.
        Those of a level and grid with fewer than `size` are left out.
        """
        alike: dict[tuple[int, str], list[tuple[int, Entry]]] = defaultdict(list)
        for number, entry in enumerate(reference.entries):
            alike[entry.rate_level, entry.grid_name].append((number, entry))
        outcome = Outcome()
        for frames in alike.values():
            if len(frames) < self._size:
                continue
            wrong: dict[int, str] = {}
            for start in range(0, len(frames), self._size):
                start = min(start, len(frames) - self._size)
                wrong |= self._differences(frames[start : start + self._size])
            for number, entry in frames:
                outcome += one(entry, number, wrong.get(number), encoded=True)
        return outcome

    def _differences(self, frames: Sequence[tuple[int, Entry]]) -> dict[int, str]:
        wrong = {}
        try:
            singles = []
            for number, entry in frames:
                self._runs.clear()
                if encode_payload(entry.indices, entry.rate_level, self._bitstream) != entry.payload:
                    wrong[number] = "another payload"
                singles.append(dict(self._runs))
            for name in singles[0]:
                feeds = {
                    key: np.concatenate([runs[name][0][key] for runs in singles])
                    for key in singles[0][name][0]
                }
                phases, *sides = singles[0][name][1].shape
                sums = self._recorders[name].session.run(feeds).reshape(phases, len(frames), *sides)
                for place, (number, _) in enumerate(frames):
                    if not np.array_equal(sums[:, place], singles[place][name][1]):
                        wrong[number] = f"other sums of {name} in a batch of {len(frames)}"
        except Exception as error:  # whatever stops a batch, its frames did not come out
            wrong = {number: f"{type(error).__name__}: {error}" for number, _ in frames}
        return wrong
