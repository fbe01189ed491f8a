"""ndsc/v1 is what proto/ generates, and the contract passes buf's STANDARD rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_generated_code_is_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", tmp_path], check=True)
    fresh = {path.name: path.read_text() for path in (tmp_path / "ndsc" / "v1").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "ndsc" / "v1").iterdir() if path.is_file()}
    assert committed == fresh, "run: make proto"
    assert len(fresh) > 10


def test_buf_lint() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "buf", "lint", ROOT / "proto"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
