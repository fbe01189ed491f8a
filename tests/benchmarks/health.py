"""Asks a server for its health ten times a second, each time on a new connection, from a process of its own.

`python -m tests.benchmarks.health ADDRESS SECONDS` prints how long each answer took, in ms, as a JSON list.
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
    end_s = time.monotonic() + seconds
    while (start_s := time.monotonic()) < end_s:
        if (status := await check_health(address)) != "SERVING":
            raise RuntimeError(f"{address} is {status}")
        took_s = time.monotonic() - start_s
        latencies_ms.append(round(took_s * 1000, 3))
        await asyncio.sleep(max(0.0, INTERVAL_S - took_s))
    json.dump(latencies_ms, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
