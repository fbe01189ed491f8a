"""When a part of the demo dies, it ends with one error and no traceback from a thread."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from ndsc.client import Subscription
from ndsc.demo.processes import ProcessError, ServiceProcess
from ndsc.demo.relay import relaying
from ndsc.demo.run import _follow
from ndsc.service.errors import ServiceError


class BrokenSubscription:
    """A subscription whose server goes away."""

    def __iter__(self) -> Iterator[Any]:
        raise ServiceError("the decoder went away", reason="UNAVAILABLE", retryable=True)

    def close(self) -> None:
        """Nothing to end."""


class Node:
    """A left node that ends well, or not."""

    def __init__(self, error: ProcessError | None = None) -> None:
        self._error = error

    def wait_for(self, word: str, timeout_s: float) -> dict[str, Any]:
        if self._error is not None:
            raise self._error
        return {"acked": 1}


@pytest.mark.parametrize(
    ("node", "message"),
    [(Node(), "the decoder went away"), (Node(ProcessError("the node ended")), "the node ended")],
)
def test_a_broken_stream_is_one_error(node: Node, message: str) -> None:
    subscription, process = cast(Subscription, BrokenSubscription()), cast(ServiceProcess, node)
    with pytest.raises((ServiceError, ProcessError), match=message):
        _follow(subscription, process, [np.zeros((8, 8, 3), np.uint8)], 1.0, Console(quiet=True))


def test_a_relay_without_a_server_closes_its_clients() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with relaying(port) as relay:
        for _ in range(2):  # and goes on serving
            with socket.create_connection(("127.0.0.1", relay.port), timeout=5) as client:
                assert client.recv(1) == b""
