"""Both services as real processes: the lines they print, and their ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Self

PATIENCE_S = 30


class Service:
    """A service's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, module: str, *flags: object) -> Self:
        """`python -m module --listen 127.0.0.1:0 …`, which logs errors alone; later flags win."""
        command = [sys.executable, "-m", module, "--listen", "127.0.0.1:0", "--log-level", "error", *flags]
        return cls(
            await asyncio.create_subprocess_exec(
                *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
        )

    async def line(self, word: str) -> dict[str, Any]:
        """The facts of its next line, which must begin with this word."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            text = (await self.process.stdout.readline()).decode()
        assert text.startswith(word + " "), text
        facts: dict[str, Any] = json.loads(text.removeprefix(word))
        return facts

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def end(self) -> tuple[int | None, str, str]:
        """(exit status, what was left of standard output, what it wrote to standard error)."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                out, err = await self.process.communicate()
        finally:
            await self.kill()
        return self.process.returncode, out.decode(), err.decode()

    async def kill(self) -> None:
        """kill -9, if it still runs."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def until(condition: Callable[[], bool]) -> None:
    """For what no message tells of."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
