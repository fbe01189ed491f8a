"""`pip install .` in an empty environment brings no torch, and both services start and serve from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT

pytestmark = pytest.mark.packaging


@pytest.mark.timeout(900)
def test_the_wheel_serves_without_torch(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run(
        [
            binaries / "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-c",
            ROOT / "constraints.txt",
            ROOT,
        ],
        check=True,
    )
    listed = subprocess.run(
        [binaries / "pip", "list", "--format", "json"], check=True, capture_output=True, text=True
    )
    packages = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert "ndsc" in packages
    assert not packages & {"torch", "onnx", "onnxscript", "pytest"}
    absent = subprocess.run(
        [binaries / "python", "-c", "import training"], cwd=tmp_path, capture_output=True, check=False
    )
    assert absent.returncode != 0, "training is no part of the wheel"
    # The demo starts both services as processes and streams through them: from the wheel alone, away from the
    # checkout.
    done = subprocess.run(
        [binaries / "ndsc", "demo", "--frames", "4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert facts["paired"] == 4
