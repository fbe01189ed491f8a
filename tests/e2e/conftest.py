"""Shared pieces of the end-to-end tests: the released bundle, and a few synthetic pairs on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ndsc.codec.frames import write_image
from ndsc.scene import SceneConfig, StereoScene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three synthetic pairs, 256x128, of a drive that is in no training set."""
    directory = tmp_path_factory.mktemp("pairs")
    scene = StereoScene(SceneConfig(seed=0))
    for view in ("left", "right"):
        (directory / view).mkdir()
    for index in range(3):
        left, right = scene.pair(3.0 * index)
        write_image(directory / "left" / f"{index}.png", left)
        write_image(directory / "right" / f"{index}.png", right)
    return directory


def run_ndsc(
    *arguments: str | Path, timeout_s: float = 100, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ndsc.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        **options,
    )
