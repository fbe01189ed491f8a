"""A picture of how old frames were when they were decoded."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.robustness.checkers import decodings
from tests.robustness.history import History


def plot_ages(history: History, path: Path, title: str) -> None:
    """Write a PNG: the age of each camera's decoded frames, from capture to decoding, over time."""
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(8, 3.5), layout="constrained")
        axes = figure.subplots()
        start_us = history.of("node", "captured")[0].m_us
        for camera in sorted(history.cameras()):
            frames = decodings(history, camera)
            times_s = [(decoded.m_us - start_us) / 1e6 for _, decoded in frames]
            ages_ms = [(decoded.m_us - captured.m_us) / 1e3 for captured, decoded in frames]
            axes.plot(times_s, ages_ms, ".", markersize=4, label=camera)
        axes.set(
            title=title, xlabel="seconds since the first frame", ylabel="age when decoded, ms", ylim=(0, None)
        )
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(path, dpi=120)
