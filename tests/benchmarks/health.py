"""Asks a server for its health ten times a second, each time on a new connection, from a process of its own.

`python -m tests.benchmarks.health ADDRESS SECONDS` prints how late each answer came, in ms, as a JSON list.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Final

from ndsc.service.health import check_health

INTERVAL_S: Final = 0.1


async def main(address: str, seconds: float) -> None:
    """Ask for so long. Raises UnreachableError, ServiceError, and RuntimeError when the server does not serve."""
    latencies_ms = []
    start_s = time.monotonic()
    for number in range(round(seconds / INTERVAL_S)):
        # Counted from when it was due: a late answer makes those after it late, too.
        due_s = start_s + number * INTERVAL_S
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        if (status := await check_health(address)) != "SERVING":
            raise RuntimeError(f"{address} is {status}")
        latencies_ms.append(round((time.monotonic() - due_s) * 1000, 3))
    json.dump(latencies_ms, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
