"""Two hosts of our own, joined by a link that is slow or loses packets: network namespaces, veth, tc and nft.

server ns: decoder, side node, bystanders ──veth── camera ns: the victim

No address of these is reachable from outside the two namespaces.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final

SERVER_ADDRESS: Final = "192.0.2.1"  # RFC 5737: documentation, routed nowhere
_CAMERA_ADDRESS: Final = "192.0.2.2"
_DEVICE: Final = "wire"
_numbers = count()


class UnavailableError(Exception):
    """This machine lacks what a fault needs; the message says what."""


@dataclass(frozen=True)
class Link:
    """The two namespaces. Commands run in one when they are put after its prefix."""

    server: str
    camera: str

    @property
    def server_prefix(self) -> tuple[str, ...]:
        """Runs a command on the server's host."""
        return ("ip", "netns", "exec", self.server)

    @property
    def camera_prefix(self) -> tuple[str, ...]:
        """Runs a command on the camera's host."""
        return ("ip", "netns", "exec", self.camera)

    async def limit(self, kbps: int) -> None:
        """Hold each direction to a rate; what waits longer than 400 ms is dropped."""
        for namespace in (self.server, self.camera):
            shape = f"root tbf rate {kbps}kbit burst 4kb latency 400ms"
            await run("tc", "-n", namespace, "qdisc", "replace", "dev", _DEVICE, *shape.split())

    async def lose(self, percent: int) -> None:
        """Drop so many of the packets, each way, at random."""
        drop = f"iifname {_DEVICE} numgen random mod 100 < {percent} counter drop"
        rules = f"table ip loss {{ chain arrivals {{ type filter hook input priority 0\n {drop}\n }}\n }}\n"
        for namespace in (self.server, self.camera):
            await run("ip", "netns", "exec", namespace, "nft", rules)

    async def mend(self) -> None:
        """Fast again, and no losses."""
        for namespace in (self.server, self.camera):
            await run("ip", "netns", "exec", namespace, "nft", "flush ruleset")
            await run("tc", "-n", namespace, "qdisc", "replace", "dev", _DEVICE, "root", "pfifo")

    async def lost(self) -> int:
        """Packets dropped by `lose` so far."""
        listings = [
            await run("ip", "netns", "exec", namespace, "nft", "list table ip loss")
            for namespace in (self.server, self.camera)
        ]
        words = [listing.split() for listing in listings]
        return sum(int(listing[listing.index("packets") + 1]) for listing in words)


@asynccontextmanager
async def linked_hosts() -> AsyncIterator[Link]:
    """Make the two hosts; whatever happens, they are gone at the end. Raises UnavailableError."""
    check_available()
    name = f"ndsc-{os.getpid()}-{next(_numbers)}"
    link = Link(server=f"{name}-server", camera=f"{name}-camera")
    made = []
    try:
        for namespace in (link.server, link.camera):
            await run("ip", "netns", "add", namespace)
            made.append(namespace)
        await run(
            *("ip", "-n", link.server, "link", "add", _DEVICE, "type", "veth"),
            *("peer", "name", _DEVICE, "netns", link.camera),
        )
        for namespace, address in ((link.server, SERVER_ADDRESS), (link.camera, _CAMERA_ADDRESS)):
            await run("ip", "-n", namespace, "address", "add", f"{address}/30", "dev", _DEVICE)
            for device in ("lo", _DEVICE):
                await run("ip", "-n", namespace, "link", "set", device, "up")
        yield link
    finally:
        for namespace in made:
            await run("ip", "netns", "delete", namespace)


def check_available() -> None:
    """Raises UnavailableError when network namespaces cannot be made here."""
    if os.geteuid() != 0:
        raise UnavailableError("network namespaces need root")
    missing = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if missing:
        raise UnavailableError(f"{', '.join(missing)}: not installed (packages iproute2 and nftables)")


async def run(*command: str) -> str:
    """Run a tool → what it printed. Raises UnavailableError when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, error = await process.communicate()
    if process.returncode:
        raise UnavailableError(f"`{' '.join(command)}` failed: {error.decode().strip()}")
    return output.decode()
