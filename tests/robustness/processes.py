"""A service as a process that can be killed, frozen, and started again with the same flags."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

STOP_TIMEOUT_S: Final = 15.0
_POLL_S: Final = 0.2


class ProcessError(Exception):
    """A service ended or stayed silent when it should not have."""


def be_interruptible() -> None:
    """Let SIGTERM and SIGINT end this process like Ctrl-C, in the background too: it then ends its services."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


async def until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Ask again and again, for what other processes write to files. Raises ProcessError when it stays false."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - other processes have no event to set
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise ProcessError(f"{what}: not within {timeout_s:g} s") from None


class Service:
    """`python -m module flags`, once or several times; its log of all runs goes to one file."""

    def __init__(
        self,
        module: str,
        flags: Sequence[str],
        log: Path,
        *,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`prefix` stands before the command, such as `ip netns exec NAME`."""
        self._command = [*prefix, sys.executable, "-P", "-m", module, *flags]
        self._environment = os.environ | (environment or {})
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._said: dict[str, dict[str, Any]] = {}
        self._changed = asyncio.Condition()
        self.killed: set[int] = set()
        """Processes that `kill` ended."""

    @property
    def name(self) -> str:
        """Of its log, without the suffix."""
        return self._log.stem

    @property
    def pid(self) -> int:
        """Of the present run; `ip netns exec` becomes what it runs."""
        return self._running.pid

    @property
    def returncode(self) -> int | None:
        """Of the present run, or None."""
        return self._running.returncode

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ProcessError(f"{self.name} was not started")
        return self._process

    async def start(self, *flags: str) -> None:
        """Begin a run, with these flags after those that every run has."""
        self._said = {}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *flags,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment,
            )
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := (await process.stdout.readline()).decode():
            word, _, facts = line.partition(" ")
            async with self._changed:
                self._said[word] = json.loads(facts)
                self._changed.notify_all()
        await process.wait()
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, word: str, timeout_s: float) -> dict[str, Any]:
        """The JSON of the present run's line `word {…}`. Raises ProcessError when it does not come."""
        process = self._running
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: word in self._said or process.returncode is not None)
        except TimeoutError:
            raise ProcessError(
                f"{self.name} did not say `{word}` within {timeout_s:g} s; {self.last_line()}"
            ) from None
        if word not in self._said:
            raise ProcessError(f"{self.name} ended with {process.returncode}; {self.last_line()}")
        return self._said[word]

    async def wait(self, timeout_s: float) -> int:
        """Wait for the end of the present run → its return code. Raises ProcessError when it does not come."""
        try:
            async with asyncio.timeout(timeout_s):
                code = await self._running.wait()
        except TimeoutError:
            raise ProcessError(
                f"{self.name} was still running after {timeout_s:g} s; {self.last_line()}"
            ) from None
        await self._finish_reading()
        return code

    async def kill(self) -> None:
        """SIGKILL."""
        self.killed.add(self.pid)
        self._running.kill()
        await self._running.wait()
        await self._finish_reading()

    def freeze(self) -> None:
        """SIGSTOP: the process and its connections stay, and do nothing."""
        self._running.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._running.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """SIGTERM, then wait; SIGKILL when it does not go. Does nothing to a service that has ended."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.terminate()
            self.thaw()
        try:
            await self.wait(STOP_TIMEOUT_S)
        except ProcessError:
            await self.kill()

    async def _finish_reading(self) -> None:
        if self._reading is not None:
            await self._reading

    def last_line(self) -> str:
        """What its log ends with, for people."""
        lines = self._log.read_text().strip().splitlines()
        return f"its log ends: {lines[-1]}" if lines else "its log is empty"
