"""Asks a server for its health ten times a second, from a process of its own: `… health ADDRESS SECONDS`.

Prints how long each answer took, in milliseconds, as one JSON list.
"""

from __future__ import annotations

import json
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

INTERVAL_S = 0.1
TIMEOUT_S = 5.0


def main(address: str, seconds: float) -> None:
    """Ask for so long."""
    latencies_ms = []
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S, wait_for_ready=True)
        end_s = time.monotonic() + seconds
        while (start_s := time.monotonic()) < end_s:
            check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            took_s = time.monotonic() - start_s
            latencies_ms.append(round(took_s * 1000, 3))
            time.sleep(max(0.0, INTERVAL_S - took_s))
    json.dump(latencies_ms, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
