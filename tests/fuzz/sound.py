"""Sound payloads to start from, and the indices that each must give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndsc.codec.bitstream import Bitstream, CompressedFrame, encode_payload, to_bytes
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.frames import Grid
from ndsc.codec.prior import MAX_STAGES, StaticPrior
from ndsc.codec.runtime import RuntimeOptions
from ndsc.scene import SceneConfig, StereoScene

Indices = NDArray[np.int32]

GRID: Final = Grid(16, 32)
OTHER_GRIDS: Final = (Grid(1, 1), Grid(1, 7), Grid(3, 5), Grid(32, 16), Grid(16, 31))
"""Of the payloads that are not of `GRID`: odd sides, one position, and the same number of positions turned."""
OWN, RENAMED, STATIC = "own", "renamed", "static"
"""Bitstreams: the bundle's; the same with another id; one of static tables for the same codebooks, or for as many
of them as it may have."""


@dataclass(frozen=True)
class Claim:
    """What a payload is said to be when it is decoded."""

    stream: str
    rate_level: int
    grid: Grid


@dataclass(frozen=True, eq=False)
class Sound:
    """A payload as the encoder made it."""

    claim: Claim
    payload: bytes
    indices: Indices
    """int32 [stages sent, h, w]."""


class Pool:
    """Sound payloads of one bundle, and everything that is needed to decode what is made of them.

    Args:
        bundle: a bundle that codes frames of 16×32 positions.
        frames: frames of the synthetic scene, coded at every level.
        draws: sets of indices drawn from the prior, for every level.

    The same bundle and counts give the same payloads on the same machine.
    """

    def __init__(self, bundle: Bundle, frames: int = 6, draws: int = 6) -> None:
        self.bundle = bundle
        self.decoder = FrameDecoder(bundle, RuntimeOptions(threads=1))
        own = bundle.bitstream
        sizes = own.prior.codebook_sizes[:MAX_STAGES]
        falling = StaticPrior.from_counts([np.arange(size, 0, -1) for size in sizes])
        self.streams: Mapping[str, Bitstream] = {
            OWN: own,
            RENAMED: replace(own, bitstream_id=bytes(reversed(own.bitstream_id))),
            STATIC: replace(
                own,
                bitstream_id=b"static tables ..",
                prior=falling,
                rate_levels=tuple(min(stages, len(sizes)) for stages in own.rate_levels),
            ),
        }
        self.levels = len(own.rate_levels)
        rng = np.random.Generator(np.random.PCG64(0))
        at_level: list[list[Sound]] = []
        others: list[Sound] = []
        for level in range(self.levels):
            stages = own.stages_sent(level)
            claim = Claim(OWN, level, GRID)
            indices = self._scene_indices(frames, level)
            indices += [own.prior.sample(rng, stages, GRID.height, GRID.width, level) for _ in range(draws)]
            # What a splice of two payloads needs to come near to a sound one: all the same but one index.
            indices += [self._one_changed(each, rng) for each in (indices[0], indices[-1])]
            at_level.append([self._sound(claim, each) for each in indices])
            for grid in OTHER_GRIDS:
                drawn = own.prior.sample(rng, stages, grid.height, grid.width, level)
                others.append(self._sound(Claim(OWN, level, grid), drawn))
            for stream in (RENAMED, STATIC):
                other = self.streams[stream]
                drawn = other.prior.sample(rng, other.stages_sent(level), GRID.height, GRID.width, level)
                others.append(self._sound(Claim(stream, level, GRID), drawn))
        self.at_level: Sequence[Sequence[Sound]] = at_level
        """Of the bundle's own bitstream and `GRID`, by rate level."""
        self.others: Sequence[Sound] = others
        """Of other grids or other bitstreams."""
        self._known = {(s.claim, s.payload): s.indices for level in (*at_level, others) for s in level}

    def indices_of(self, claim: Claim, payload: bytes) -> Indices | None:
        """What this payload must give; None where no encoder made it."""
        return self._known.get((claim, payload))

    def file(self, sound: Sound, **fields: int | bytes) -> bytes:
        """A payload as a `.ndsc` file of a frame of whole strides, with some of the frame's fields changed."""
        stride = self.bundle.geometry.stride
        frame = CompressedFrame(
            self.streams[sound.claim.stream].bitstream_id,
            sound.claim.rate_level,
            sound.claim.grid.width * stride,
            sound.claim.grid.height * stride,
            sound.payload,
        )
        return to_bytes(replace(frame, **fields))  # type: ignore[arg-type]

    def _scene_indices(self, frames: int, level: int) -> list[Indices]:
        """What the encoder makes of the scene."""
        stride = self.bundle.geometry.stride
        scene = StereoScene(SceneConfig(width=GRID.width * stride, height=GRID.height * stride))
        encoder = FrameEncoder(self.bundle, RuntimeOptions(threads=1))
        packed = [encoder.encode(scene.render(0.7 * i, "left"), level) for i in range(frames)]
        return [self.decoder.unpack(frame).stages for frame in packed]

    def _one_changed(self, indices: Indices, rng: np.random.Generator) -> Indices:
        changed = indices.copy()
        place = tuple(int(rng.integers(side)) for side in indices.shape)
        size = self.bundle.prior.codebook_sizes[place[0]]
        changed[place] = (changed[place] + 1) % size
        return changed

    def _sound(self, claim: Claim, indices: Indices) -> Sound:
        payload = encode_payload(indices, claim.rate_level, self.streams[claim.stream])
        return Sound(claim, payload, indices)
