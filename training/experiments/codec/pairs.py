"""The pairs that codecs are trained on and measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ndsc.codec.frames import Frame
from training.data import Pair, load_pairs, render_drives
from training.experiments.recipe import RecipeError
from training.validation import validation_views

Views = Sequence[tuple[Frame, Frame]]
"""Left and right frames uint8 [128, 256, 3]."""


def held_out_pairs(stereo: Path | None, *, smoke: bool, test: bool) -> tuple[list[Pair], Views]:
    """Pairs to train on, and views of the held-out ones: of val, of test and test_jpeg, or of drives (`smoke`).

    Raises RecipeError without a folder, and for drives that are to be a test.
    """
    if smoke and test:
        raise RecipeError("--smoke measures on drives: leave --test out")
    if smoke:
        drives = render_drives(4, seed=5)
        return drives[:2], validation_views(drives[2:])
    if stereo is None:
        raise RecipeError("give --stereo with train/ and val/, or --smoke")
    measured = ("test", "test_jpeg") if test else ("val",)
    return load_pairs([stereo / "train"]), validation_views(load_pairs([stereo / name for name in measured]))
