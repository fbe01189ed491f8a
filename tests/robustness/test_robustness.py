"""A short run, of processes like the long one: `make robustness` does every fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.robustness.runner import Result, run_all
from tests.robustness.scenarios import SCENARIOS

SHORT = ("decoder killed", "link half-open")


@pytest.mark.timeout(300)
def test_promises_are_kept(tmp_path: Path) -> None:
    ended: list[Result] = []
    results = run_all([one for one in SCENARIOS if one.fault in SHORT], tmp_path, ended.append)
    assert {result.fault for result in results} == set(SHORT)
    for result in results:
        violations = [line for verdict in result.verdicts for line in verdict.violations]
        assert (result.status, result.why, violations) == ("kept", "", []), result.fault
        assert all(counts.decoded > 0 for counts in result.counts.values()), "frames came through"
    assert len(ended) == len(SHORT)
