"""The bundles that runs are made with: tiny, so that services and not networks keep the machine busy."""

from __future__ import annotations

import timeit
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.prior import StaticPrior
from ndsc.codec.runtime import RuntimeOptions
from tests import tiny_bundle
from tests.robustness.reference import HEIGHT, WIDTH

_PROBE_LAYERS: Final = 24


@dataclass(frozen=True)
class Bundles:
    """Two bundles of different bitstreams."""

    present: Bundle
    successor: Bundle
    """What a fleet is changed over to."""

    @property
    def all(self) -> tuple[Bundle, Bundle]:
        """Both."""
        return self.present, self.successor


def make_bundles(folder: Path) -> Bundles:
    """Write them below `folder`."""
    parts = tiny_bundle.parts()
    falling = StaticPrior.from_counts([np.arange(size, 0, -1) for size in tiny_bundle.CODEBOOK_SIZES])
    return Bundles(
        present=write_bundle(folder / "present", **parts),
        successor=write_bundle(folder / "successor", **parts | {"name": "successor", "prior": falling}),
    )


def load_bundles(folder: Path) -> Bundles:
    """What `make_bundles` wrote."""
    return Bundles(Bundle.load(folder / "present"), Bundle.load(folder / "successor"))


def make_slow_bundle(folder: Path, decode_s: float) -> Bundle:
    """The present bundle with a decoder that takes `decode_s` for a frame on this machine, by one thread."""
    probe = write_bundle(folder / "probe", **tiny_bundle.parts(decoder_layers=_PROBE_LAYERS))
    layers = round(_PROBE_LAYERS * decode_s / _decode_s(probe))
    return write_bundle(folder / "bundle", **tiny_bundle.parts(decoder_layers=layers))


def _decode_s(bundle: Bundle) -> float:
    """Seconds to decode one frame with one thread: the least of several, for the machine has other work too."""
    decoder = FrameDecoder(bundle, RuntimeOptions(threads=1))
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    compressed = FrameEncoder(bundle).encode(frame)
    return min(timeit.repeat(lambda: decoder.decode(compressed, frame), number=1, repeat=5))
