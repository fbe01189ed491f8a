"""One decoder, its cameras and their side information as processes, and the traffic through them.

left camera ──proxy──→ decoder ←── right camera (side information)
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ndsc.codec.bundle import Bundle
from ndsc.service.identity import Role
from tests.robustness.accounts import accounts_of
from tests.robustness.bundles import Bundles
from tests.robustness.conditions import Reference, Window
from tests.robustness.credentials import RIG, Credentials
from tests.robustness.history import History, Key, Side, read_histories
from tests.robustness.netns import SERVER_ADDRESS, Link
from tests.robustness.processes import ProcessError, Service, until
from tests.robustness.proxy import Proxy, proxying
from tests.robustness.reference import HEIGHT, WIDTH

SIDE: Final = "y"
"""The camera whose frames are side information."""
START_TIMEOUT_S: Final = 40.0
END_TIMEOUT_S: Final = 40.0
DECODER_START_S: Final = 1.5
"""On an idle machine of two cores at 2.5 GHz. Where it takes longer, everything is given more time."""
_MOST_SLOWNESS: Final = 4.0

Delivery = Literal["live", "archive"]


def free_port() -> int:
    """A TCP port of loopback that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass(frozen=True)
class Camera:
    """A camera node of a run."""

    name: str
    delivery: Delivery
    flags: tuple[str, ...] = ()


# They see one scene, so each has a rate level of its own: a picture given to the wrong one is another picture.
CAMERAS: Final = (
    Camera("live-a", "live", ("--rate-level", "0")),
    Camera("live-b", "live", ("--rate-level", "1")),
    Camera("archive-a", "archive", ("--rate-level", "2")),
)


@dataclass
class Rig:
    """A run: set it up, then hold `traffic`."""

    folder: Path
    bundles: Bundles
    credentials: Credentials
    cameras: tuple[Camera, ...] = CAMERAS
    fps: float = 10.0
    seconds: float = 10.0
    """Of traffic."""
    seed: int = 0
    width: int = WIDTH
    height: int = HEIGHT
    """Of every frame, in pixels."""
    epoch_s: int | None = None
    """Of the first frame; None: as soon as all have started."""
    start_s: float = 6.0
    """How long the nodes may take to start."""
    side_delivery: Delivery = "live"
    decoder_flags: tuple[str, ...] = ()
    served: tuple[Bundle, ...] = ()
    """Bundles of the decoder's next start, the preferred one first; none: the present one alone."""
    valid_s: dict[str, float] = field(default_factory=dict)
    """How long nodes' certificates are valid from the first frame on, by camera; else long enough."""
    node_flags: tuple[str, ...] = ()
    """Of every node, that of the side information too."""
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of nodes, by camera."""
    link: Link | None = None
    """Two hosts: the decoder's, and that of the cameras in `remote`."""
    remote: frozenset[str] = frozenset()
    slowness: float = 1.0
    """Of this machine, found out at the start."""
    age_bound_ms: int = 1_500
    lossless: bool = False
    """No camera may lose a frame."""
    meant_to_end: set[str] = field(default_factory=set)
    """Nodes whose end is no error, however it comes."""
    references: dict[Key, Reference] = field(default_factory=dict)
    """What frames must come to, besides those that are coded and decoded again."""
    spoilt: frozenset[Key] = frozenset()
    """Frames whose payload was changed."""
    windows: list[Window] = field(default_factory=list)
    services: dict[str, Service] = field(default_factory=dict)
    proxies: dict[str, Proxy] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    """The decoder's, the same after a restart."""

    @property
    def names(self) -> frozenset[str]:
        """Of the cameras."""
        return frozenset(camera.name for camera in self.cameras)

    @property
    def decoder(self) -> Service:
        """The server."""
        return self.services["decoder"]

    @property
    def killed(self) -> frozenset[int]:
        """Processes that were killed."""
        return frozenset[int]().union(*(service.killed for service in self.services.values()))

    @property
    def address(self) -> str:
        """The decoder's, without a proxy."""
        return f"127.0.0.1:{self.port}"

    @property
    def ends_s(self) -> float:
        """When the last frame is captured, in seconds since the Unix epoch."""
        assert self.epoch_s is not None
        return self.epoch_s + self.seconds

    def next_epoch_s(self) -> int:
        """The earliest whole second by which all nodes will have started, in seconds since the Unix epoch."""
        return math.ceil(time.time() + self.start_s)

    def history(self) -> History:
        """What was written down so far."""
        return read_histories(sorted(self.folder.glob("*.jsonl")))

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Start all, stream while the block runs and on to the end, see that all is decoded, stop all."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop_all)
            self.services["decoder"] = self._service("decoder", self._decoder_flags())
            started = time.monotonic()
            await self.start_decoder()
            self._allow_for(time.monotonic() - started)
            for name in (SIDE, *sorted(self.names)):
                if name not in self.remote:
                    self.proxies[name] = await stack.enter_async_context(proxying(self.port))
                self.services[name] = self._service(name, self._node_flags(name))
            self.epoch_s = self.epoch_s or self.next_epoch_s()
            nodes = (SIDE, *sorted(self.names))
            await asyncio.gather(*(self.start_node(name, self.epoch_s) for name in nodes))
            yield
            await self._finish()

    def _allow_for(self, decoder_start_s: float) -> None:
        """Give a machine that is slow, or busy with other work, as much more time."""
        self.slowness = min(_MOST_SLOWNESS, max(1.0, decoder_start_s / DECODER_START_S))
        self.start_s *= self.slowness
        self.seconds *= self.slowness
        self.age_bound_ms = round(self.age_bound_ms * self.slowness)

    async def start_decoder(self) -> None:
        """Start the decoder, for the first time or again, and wait until it serves."""
        served = self.served or (self.bundles.present,)
        await self.decoder.start(*(flag for bundle in served for flag in ("--bundle", str(bundle.path))))
        await self.decoder.wait_for("ready", START_TIMEOUT_S)

    async def start_node(self, name: str, epoch_s: int | None = None) -> None:
        """Start a node and wait until its session is open; its frames begin at `epoch_s`, or a moment from now."""
        epoch_s = epoch_s or math.ceil(time.time() + 2)
        limit = max(1, round((self.ends_s - epoch_s) * self.fps))
        await self.services[name].start("--epoch", str(epoch_s), "--limit", str(limit))
        await self.services[name].wait_for("ready", START_TIMEOUT_S)

    @asynccontextmanager
    async def fault(self, *cameras: str, recovery_s: float = 2.5) -> AsyncIterator[None]:
        """While a fault works on these cameras, or on all when none is named; and for a while after."""
        start_us = time.monotonic_ns() // 1000
        yield
        end_us = time.monotonic_ns() // 1000 + round(recovery_s * self.slowness * 1_000_000)
        self.windows.append(Window(start_us, end_us, frozenset(cameras) or self.names))

    async def stream(self, until: float) -> None:
        """Let traffic go on until a part of its time has passed, from 0 to 1."""
        assert self.epoch_s is not None
        await asyncio.sleep(max(0.0, self.epoch_s + until * self.seconds - time.time()))

    async def until_seen(self, side: Side, event: str, camera: str, **facts: object) -> None:
        """Wait until the history holds such an event. Raises ProcessError."""

        def seen() -> bool:
            events = self.history().of(side, event, camera=camera)
            return any(facts.items() <= found.facts.items() for found in events)

        await until(seen, END_TIMEOUT_S, f"{camera} {event} {facts or ''}")

    async def start_twin(self, name: str) -> None:
        """Start a second node of this name, beside the first."""
        twin = self._service(f"{name}-twin", self._node_flags(name))
        self.services[f"{name}-twin"] = twin
        epoch_s = math.ceil(time.time() + 2)
        limit = max(1, round((self.ends_s - epoch_s) * self.fps))
        await twin.start("--epoch", str(epoch_s), "--limit", str(limit))

    async def _finish(self) -> None:
        """Wait until every node has ended and what the decoder has stored is decoded. Raises ProcessError."""
        timeout_s = max(0.0, self.ends_s - time.time()) + END_TIMEOUT_S
        for name in sorted(self.services.keys() - {"decoder"}):
            code = await self.services[name].wait(timeout_s)
            if code and name not in self.meant_to_end:
                raise ProcessError(f"{name} ended with {code}; {self.services[name].last_line()}")
        await until(self._all_decoded, END_TIMEOUT_S, "what is stored is decoded")

    async def _stop_all(self) -> None:
        """The nodes first: the decoder then has nothing to wait for."""
        nodes = [service for name, service in self.services.items() if name != "decoder"]
        await asyncio.gather(*(node.stop() for node in nodes))
        await self.decoder.stop()

    def _all_decoded(self) -> bool:
        """Whether the newest stored frame of every session is settled: a session's frames are in order."""
        accounts = accounts_of(self.history())
        newest = {key[:2]: key for key in accounts.stored}
        return all(key in accounts.decoded or key in accounts.refused for key in newest.values())

    def _service(self, name: str, flags: list[str]) -> Service:
        prefix: tuple[str, ...] = ()
        if self.link is not None:
            prefix = self.link.camera_prefix if name in self.remote else self.link.server_prefix
        return Service(
            "decoder_service" if name == "decoder" else "encoder_service",
            [*flags, "--history", str(self.folder / f"{name}.jsonl"), "--threads", "1", "--log-json"],
            self.folder / f"{name}.log",
            prefix=prefix,
            environment=self.environments.get(name),
        )

    def _decoder_flags(self) -> list[str]:
        flags = [
            *("--listen", f"{'0.0.0.0' if self.remote else '127.0.0.1'}:{self.port}"),
            *("--archive", str(self.folder / "archive"), "--archive-pair-wait-ms", "3000"),
            *("--heartbeat-interval-ms", "500"),
        ]
        return [*flags, *self.credentials.decoder(), *self.decoder_flags]

    def _node_flags(self, name: str) -> list[str]:
        address = (
            f"{SERVER_ADDRESS}:{self.port}" if name in self.remote else f"127.0.0.1:{self.proxies[name].port}"
        )
        if self.link is not None and name not in self.remote:
            address = f"127.0.0.1:{self.port}"  # the proxies are on no host of the link
        view = "right" if name == SIDE else "left"
        flags = [
            *("--rig", RIG, "--camera", name, "--decoder", address, "--listen", "127.0.0.1:0"),
            *("--source", f"synthetic:{view}?seed={self.seed}&width={self.width}&height={self.height}"),
            *("--fps", str(self.fps), "--reconnect-max-s", "1"),
            *("--handshake-timeout-s", "2"),
        ]
        camera = next((camera for camera in self.cameras if camera.name == name), None)
        if camera is None:
            flags += ["--role", "side-information", "--side-format", "png"]
        else:
            flags += ["--bundle", str(self.bundles.present.path), "--side-information", SIDE, *camera.flags]
        delivery = self.side_delivery if camera is None else camera.delivery
        if delivery == "archive":
            flags += ["--delivery", "archive", "--spool", str(self.folder / f"{name}.spool")]
        flags += self.node_flags
        role: Role = "side-information" if camera is None else "camera"
        return flags + self.credentials.node(role, name, self._validity_s(name))

    def _validity_s(self, name: str) -> float | None:
        return self.start_s + self.valid_s[name] if name in self.valid_s else None
