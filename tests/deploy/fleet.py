"""Decoders behind a proxy, and rigs that stream to them through it, all as processes.

two cameras (one LIVE, one ARCHIVE) and side information, of each rig ──→ proxy ──→ one of the decoders
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from ndsc.codec.bundle import Bundle
from ndsc.codec.frames import write_image
from ndsc.scene import SceneConfig, StereoScene
from ndsc.service.identity import Role
from ndsc.service.tls import CertificateFiles
from tests.deploy.follower import Follower
from tests.deploy.haproxy import Mode, Proxy, certificate_environment, proxying
from tests.pki import Authority
from tests.robustness.accounts import accounts_of
from tests.robustness.history import History, read_histories
from tests.robustness.processes import ProcessError, Service, until
from tests.robustness.reference import HEIGHT, WIDTH
from tests.robustness.rig import Delivery, free_port

RIGS: Final = ("rig-1", "rig-2", "rig-3", "rig-4")
DECODERS: Final = ("decoder-1", "decoder-2", "decoder-3")
PICTURES: Final = 8
"""Of each camera, again and again."""
START_TIMEOUT_S: Final = 120.0
END_TIMEOUT_S: Final = 60.0
DECODERS_START_S: Final = 2.0
"""On an idle machine of two cores at 2.5 GHz. Where it takes longer, everything is given more time."""
NODES_START_S: Final = 15.0
"""On such a machine, all of them at once, and some seconds more."""
_MOST_SLOWNESS: Final = 4.0


class TooBusyError(Exception):
    """A node was not ready when its first frame was due: from then on it stays behind the others of its rig."""


@dataclass(frozen=True)
class Member:
    """A node of a rig. Names are those of no other rig's nodes: histories know cameras by them."""

    rig: str
    name: str
    role: Role
    delivery: Delivery
    flags: tuple[str, ...]


_CAMERAS: Final[tuple[tuple[str, Delivery], ...]] = (("left", "live"), ("front", "archive"))


def members(rig: str) -> tuple[Member, ...]:
    """The nodes of a rig."""
    side = f"{rig}-right"
    cameras = [
        Member(
            rig,
            f"{rig}-{name}",
            "camera",
            delivery,
            ("--side-information", side, "--rate-level", str(level)),
        )
        for level, (name, delivery) in enumerate(_CAMERAS)
    ]
    # ARCHIVE: what a decoder has stored needs side information that was not lost on the way.
    return (*cameras, Member(rig, side, "side-information", "archive", ("--side-format", "png")))


@dataclass
class Fleet:
    """Set it up, then hold `traffic`."""

    folder: Path
    mode: Mode
    bundle: Bundle
    remembers: bool = True
    """The proxy remembers where rigs are."""
    fps: float = 4.0
    seconds: float = 34.0
    """Of traffic."""
    slowness: float = 1.0
    """Of this machine, found out at the start."""
    patience: float = 1.0
    """How much longer nodes may take to start than even that makes likely."""
    epoch_s: int = 0
    """Of the first frame, in seconds since the Unix epoch."""
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in DECODERS})
    services: dict[str, Service] = field(default_factory=dict)
    """Decoders and nodes, by name."""
    followers: dict[str, Follower] = field(default_factory=dict)
    """By rig."""
    _authority: Authority | None = None
    _proxy: Proxy | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        _draw(self.folder / "pictures")
        if self.mode == "tls":
            self._authority = Authority(self.folder / "pki")

    @property
    def proxy(self) -> Proxy:
        """In front of the decoders."""
        assert self._proxy is not None
        return self._proxy

    @property
    def authority(self) -> Authority:
        """Of all certificates; TLS alone."""
        assert self._authority is not None
        return self._authority

    @property
    def killed(self) -> frozenset[int]:
        """Processes that were killed."""
        return frozenset[int]().union(*(service.killed for service in self.services.values()))

    @property
    def ends_s(self) -> float:
        """When the last frame is captured, in seconds since the Unix epoch."""
        return self.epoch_s + self.seconds

    def histories(self, *names: str) -> History:
        """What these processes, or all, wrote down so far."""
        wanted = names or (*DECODERS, *(member.name for rig in RIGS for member in members(rig)))
        paths = [self.folder / f"{name}.jsonl" for name in wanted]
        return read_histories(path for path in paths if path.exists())

    def files(self, role: Role, name: str, rig: str) -> CertificateFiles:
        """A certificate."""
        return self.authority.node(role, name, rig=rig)

    def server_name(self, rig: str) -> str | None:
        """By which the proxy picks the decoder of a rig, where it does not see calls."""
        return f"{rig}.decoder.example" if self.mode == "tls" else None

    def credentials(self, rig: str) -> dict[str, Any]:
        """A client's, for a rig's decoder."""
        if self.mode == "plaintext":
            return {}
        files = self.files("client", "someone", rig)
        return {
            "tls_ca": files.ca,
            "tls_certificate": files.certificate,
            "tls_key": files.key,
            "tls_server_name": self.server_name(rig),
        }

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Start all, stream while the block runs and on to the end, see that all is decoded, stop all."""
        async with AsyncExitStack() as stack:
            started = time.monotonic()
            stack.push_async_callback(self._stop, *DECODERS)
            for name in DECODERS:
                self.services[name] = Service(
                    "decoder_service", self._decoder_flags(name), self.folder / f"{name}.log"
                )
            await asyncio.gather(*(self.start_decoder(name) for name in DECODERS))
            self._allow_for(time.monotonic() - started)
            environment = {}
            if self.mode == "tls":
                environment = certificate_environment(self.authority.server(), self.folder)
            self._proxy = await stack.enter_async_context(
                proxying(self.mode, self.ports, self.folder, remembers=self.remembers, **environment)
            )
            await self.proxy.wait_for("UP")
            nodes = [member for rig in RIGS for member in members(rig)]
            stack.push_async_callback(self._stop, *(node.name for node in nodes))
            self.epoch_s = self.in_s(NODES_START_S)
            await asyncio.gather(*(self.start_node(node, self.epoch_s) for node in nodes))
            for rig in RIGS:
                follower = self.followers[rig] = Follower(rig, self.proxy.address, **self.credentials(rig))
                follower.start()
                stack.push_async_callback(asyncio.to_thread, follower.stop)
            yield
            await self._finish()

    def _allow_for(self, start_s: float) -> None:
        """Give a machine that is slow, or busy with other work, as much more time."""
        self.slowness = min(_MOST_SLOWNESS, max(1.0, start_s / DECODERS_START_S))
        self.seconds *= self.slowness

    def in_s(self, seconds: float) -> int:
        """The first whole second so long from now, on an idle machine, in seconds since the Unix epoch."""
        return math.ceil(time.time() + seconds * self.slowness * self.patience)

    async def start_decoder(self, name: str) -> None:
        """Start a decoder, for the first time or again, and wait until it serves."""
        await self.services[name].start()
        await self.services[name].wait_for("ready", START_TIMEOUT_S)

    async def start_node(self, node: Member, epoch_s: int) -> None:
        """Start a node and wait until its session is open; its frames begin at `epoch_s`.

        Raises ProcessError, and TooBusyError when it was not ready by then.
        """
        service = self.services.get(node.name)
        if service is None:
            service = self.services[node.name] = Service(
                "encoder_service", self._node_flags(node), self.folder / f"{node.name}.log"
            )
        limit = max(1, round((self.ends_s - epoch_s) * self.fps))
        await service.start("--epoch", str(epoch_s), "--limit", str(limit))
        await service.wait_for("ready", START_TIMEOUT_S)
        late_s = time.time() - epoch_s
        if late_s > 0:
            raise TooBusyError(f"this machine is too busy: {node.name} was ready {late_s:.1f} s too late")

    async def stream(self, until: float) -> None:
        """Let traffic go on until a part of its time has passed, from 0 to 1."""
        await asyncio.sleep(max(0.0, self.epoch_s + until * self.seconds - time.time()))

    def places(self) -> dict[str, list[str]]:
        """Of each rig, the decoders that had anything of it, in order, each as often as it went there."""
        arrivals = sorted(
            (event.m_us, event["rig"], name)
            for name in DECODERS
            for kind in ("camera", "side")
            for event in self.histories(name).of("decoder", "received", kind=kind)
        )
        places: dict[str, list[str]] = {rig: [] for rig in RIGS}
        for _, rig, decoder in arrivals:
            if places[rig][-1:] != [decoder]:
                places[rig].append(decoder)
        return places

    async def _finish(self) -> None:
        """Wait until every node has ended and what decoders have stored is decoded. Raises ProcessError."""
        timeout_s = max(0.0, self.ends_s - time.time()) + END_TIMEOUT_S
        for name, service in self.services.items():
            if name in DECODERS:
                continue
            code = await service.wait(timeout_s)
            if code:
                raise ProcessError(f"{name} ended with {code}; {service.last_line()}")
        for name in DECODERS:
            await until(partial(self._all_decoded, name), END_TIMEOUT_S, f"{name} has decoded what it stored")

    def _all_decoded(self, decoder: str) -> bool:
        """Whether the newest stored frame of every session is settled: a session's frames are in order.

        Of the present run: one that was killed may have decoded a frame without a word of it.
        """
        accounts = accounts_of(self.histories(decoder))
        pid = self.services[decoder].pid
        newest = {key[:2]: key for key, event in accounts.stored.items() if event.pid == pid}
        return all(key in accounts.decoded or key in accounts.refused for key in newest.values())

    async def _stop(self, *names: str) -> None:
        services = [self.services[name] for name in names if name in self.services]
        await asyncio.gather(*(service.stop() for service in services))

    def _decoder_flags(self, name: str) -> list[str]:
        flags = [
            *("--listen", f"127.0.0.1:{self.ports[name]}", "--bundle", str(self.bundle.path)),
            *("--archive", str(self.folder / f"{name}.archive"), "--archive-pair-wait-ms", "3000"),
            # On a busy machine the nodes of a rig are not as close as the default asks of LIVE frames.
            *("--pair-wait-ms", "1000", "--credit-frames", "8"),
            *self._common_flags(name),
        ]
        if self.mode == "plaintext":
            return flags
        return flags + _tls(self.authority.server(hosts=("*.decoder.example",)))

    def _node_flags(self, node: Member) -> list[str]:
        view = "right" if node.role == "side-information" else "left"
        flags = [
            *("--rig", node.rig, "--camera", node.name, "--role", node.role),
            *("--decoder", self.proxy.address, "--listen", "127.0.0.1:0", "--fps", str(self.fps)),
            *("--source", str(self.folder / "pictures" / node.rig / view), "--loop"),
            *("--delivery", node.delivery, "--reconnect-max-s", "1"),
            *self._common_flags(node.name),
            *node.flags,
        ]
        if node.role == "camera":
            flags += ["--bundle", str(self.bundle.path)]
        if node.delivery == "archive":
            flags += ["--spool", str(self.folder / f"{node.name}.spool")]
        name = self.server_name(node.rig)
        if name is not None:
            flags += ["--decoder-name", name, *_tls(self.files(node.role, node.name, node.rig))]
        return flags

    def _common_flags(self, name: str) -> list[str]:
        return ["--history", str(self.folder / f"{name}.jsonl"), "--threads", "1", "--log-json"]


def _draw(folder: Path) -> None:
    """A few pictures of each rig's street: a dozen nodes that draw their own take most of a core."""
    for seed, rig in enumerate(RIGS):
        scene = StereoScene(SceneConfig(seed=seed, width=WIDTH, height=HEIGHT))
        for number in range(PICTURES):
            for view, picture in zip(("left", "right"), scene.pair(number / 4), strict=True):
                place = folder / rig / view
                place.mkdir(parents=True, exist_ok=True)
                write_image(place / f"{number}.png", picture)


def _tls(files: CertificateFiles) -> list[str]:
    return [
        *("--tls-ca", str(files.ca), "--tls-certificate", str(files.certificate)),
        *("--tls-key", str(files.key)),
    ]
