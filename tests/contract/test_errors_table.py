"""docs/ERRORS.md is what the contract and the code say, and its advice names flags that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from decoder_service.settings import DecoderSettings
from encoder_service.settings import EncoderSettings
from ndsc.service.errors import OUTCOMES, reason_name

ROOT = Path(__file__).resolve().parents[2]
ERRORS = ROOT / "docs" / "ERRORS.md"


def test_the_table_is_current(tmp_path: Path) -> None:
    fresh = tmp_path / "ERRORS.md"
    subprocess.run([sys.executable, ROOT / "proto" / "errors_table.py", fresh], check=True)
    assert ERRORS.read_text() == fresh.read_text(), "run: python proto/errors_table.py"


def test_every_reason_has_its_row() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| (yes|no) \| (.+) \| (.+) \|$", ERRORS.read_text(), re.MULTILINE
    )
    assert [row[:3] for row in rows] == [
        (reason_name(reason), outcome.code.name, "yes" if outcome.retryable else "no")
        for reason, outcome in OUTCOMES.items()
    ]
    assert all(meaning.endswith(".") and advice.endswith(".") for *_, meaning, advice in rows)


def test_advice_names_flags_that_exist() -> None:
    known = {name.replace("_", "-") for s in (DecoderSettings, EncoderSettings) for name in s.model_fields}
    named = {flag for outcome in OUTCOMES.values() for flag in re.findall(r"--([a-z-]+)", outcome.advice)}
    assert len(named) > 5
    assert named <= known
