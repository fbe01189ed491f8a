"""What is ablated. Each code gives x̂ of every sample under one kind of y, and the bits that were sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ndsc.codec.bitstream import from_bytes, to_bytes
from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.runtime import RuntimeOptions
from training.datasets.views import Views, stack, to_signal
from training.experiments.ablation.sides import Samples, Side
from training.experiments.recipe import RecipeError
from training.experiments.stereo.point import code, load_code
from training.paper.convolutional import Mode


@dataclass(frozen=True)
class Decoded:
    """Every sample under one kind of y."""

    outputs: tuple[NDArray[np.float32], ...]
    """x̂ float32 [H, W, 3] in [0, 1]."""
    bpp: float
    """Rate of x: real bytes of a bundle, fixed length of a paper code."""


class Code(Protocol):
    """A code whose message does not depend on y."""

    name: str
    identity: str
    """Which weights these are."""
    kinds: tuple[Side, ...]

    def decode(self, samples: Samples, kind: Side) -> Decoded:
        """Code every source and decode it with y of `kind`."""
        ...


class PaperCode:
    """A code that the stereo experiment trained: RUN/FAMILY-BITSbit. Raises CheckpointError."""

    kinds: tuple[Side, ...] = (Side.RIGHT, Side.WRONG, Side.RANDOM)

    def __init__(self, run: Path, device: torch.device) -> None:
        self.name = run.name
        self.identity = f"weights {hashlib.sha256((run / 'run.safetensors').read_bytes()).hexdigest()[:16]}"
        self.device = device
        self.model = load_code(run, device)
        if self.model.config.mode != Mode.DISTRIBUTED:
            raise RecipeError(
                f"{run}: a {self.model.config.mode} code; only a distributed one can be ablated"
            )

    def decode(self, samples: Samples, kind: Side) -> Decoded:
        """At the fixed-length rate."""
        seen = [side for side in samples.seen(kind) if side is not None]
        views = Views((stack(samples.sources), stack(samples.sides))).to(self.device)
        _, outputs = code(self.model, views, side=to_signal(stack(seen)).to(self.device))
        pictures = tuple(output.permute(1, 2, 0).numpy() for output in outputs)
        return Decoded(pictures, self.model.config.fixed_bpp)


class BundleCode:
    """One rate level of a released bundle, through the bytes of a `.ndsc` file."""

    kinds: tuple[Side, ...] = tuple(Side)

    def __init__(self, encoder: FrameEncoder, decoder: FrameDecoder, level: int) -> None:
        self.name = f"{encoder.bundle.name}, level {level}"
        self.identity = f"bundle {encoder.bundle.bundle_id}"
        self._encoder, self._decoder, self._level = encoder, decoder, level

    def decode(self, samples: Samples, kind: Side) -> Decoded:
        """At the rate of the real bytes, payload checksum included."""
        received = [from_bytes(to_bytes(self._encoder.encode(x, self._level))) for x in samples.sources]
        seen = samples.seen(kind)
        outputs = tuple(self._decoder.decode_float(frame, y) for frame, y in zip(received, seen, strict=True))
        return Decoded(outputs, sum(frame.payload_bpp for frame in received) / len(received))


def bundle_codes(directory: Path, threads: int = 0) -> Iterator[BundleCode]:
    """Every rate level of a bundle, on CPU `threads` (0: one for each core). Raises BundleError."""
    bundle, options = Bundle.load(directory), RuntimeOptions(threads=threads)
    encoder, decoder = FrameEncoder(bundle, options), FrameDecoder(bundle, options)
    for level in range(bundle.rate_level_count):
        yield BundleCode(encoder, decoder, level)
