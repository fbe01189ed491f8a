"""Logs that keep quiet when they should."""

from __future__ import annotations

import subprocess
import sys

import pytest
from structlog.testing import CapturingLogger

from ndsc.service.logs import RateLimitedLog


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_repeated_event_is_logged_once_an_interval_and_the_rest_are_counted() -> None:
    log, clock = CapturingLogger(), Clock()
    limited = RateLimitedLog(log, interval_s=10, clock=clock)
    for sequence in range(1, 26):  # one a second
        limited.warning("frame dropped", sequence=sequence)
        clock.seconds += 1
    assert [call.kwargs for call in log.calls] == [
        {"sequence": 1},
        {"sequence": 11, "suppressed": 9},
        {"sequence": 21, "suppressed": 9},
    ]
    assert {(call.method_name, call.args) for call in log.calls} == {("warning", ("frame dropped",))}


def test_each_event_has_its_own_interval() -> None:
    log, clock = CapturingLogger(), Clock()
    limited = RateLimitedLog(log, interval_s=10, clock=clock)
    limited.warning("frame dropped")
    clock.seconds = 9.0
    limited.warning("frame dropped")
    limited.warning("frame refused")
    clock.seconds = 10.0
    limited.warning("frame refused")
    limited.warning("frame dropped")
    assert [(call.args[0], call.kwargs) for call in log.calls] == [
        ("frame dropped", {}),
        ("frame refused", {}),
        ("frame dropped", {"suppressed": 1}),
    ]


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_traceback_shows_no_local_variables(json_lines: bool) -> None:
    program = f"""
import structlog
from ndsc.service.logs import configure_logs
configure_logs(level="info", json_lines={json_lines})
def fail(token):
    raise ValueError("it failed")
try:
    fail("".join(["SEC", "RET"]))
except ValueError:
    structlog.get_logger().exception("what was logged")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "it failed" in done.stderr
    assert "what was logged" in done.stderr
    assert "SECRET" not in done.stderr
