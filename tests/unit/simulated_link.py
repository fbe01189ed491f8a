"""A camera, a link and a decoder in simulated time, for tests of rate control."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from encoder_service.rate_control import RateController

SIZES = (322, 690, 1081)
"""Bytes of a Frame message at the three levels of a codec of residual stages: means over 120 s of the synthetic
drive, six seeds, 256x128; from one frame to the next they differ by 1 %."""
CLOSE_SIZES = (151, 166, 227, 323, 531, 857, 1246, 1587)
"""The same of the default bundle's eight levels, over 18 frames of three seeds."""


@dataclass
class Camera:
    """Frames of changing content."""

    fps: Callable[[float], float]
    content: Callable[[float], float] = lambda t: 1.0
    """Multiplies all sizes."""
    noise: float = 0.05
    """Each frame's size differs by up to this share."""
    random: random.Random = field(default_factory=lambda: random.Random(3))
    sizes: Sequence[int] = SIZES

    def size(self, level: int, now_s: float) -> int:
        return round(
            self.sizes[level] * self.content(now_s) * (1 + self.random.uniform(-self.noise, self.noise))
        )


@dataclass(frozen=True)
class Sent:
    """A frame that was sent."""

    at_s: float
    message_bytes: int
    level: int


def stream(
    controller: RateController,
    camera: Camera,
    until_s: float,
    at: dict[float, Callable[[], None]] | None = None,
) -> list[Sent]:
    """Frames sent over a link that takes everything at once; `at` says what happens on the way."""
    sent, now_s, events = [], 0.0, sorted((at or {}).items(), key=lambda event: event[0])
    while now_s < until_s:
        while events and events[0][0] <= now_s:
            events.pop(0)[1]()
        if (level := controller.choose(now_s)) is not None:
            size = camera.size(level, now_s)
            controller.coded(level, size)
            controller.sent(now_s, size)
            sent.append(Sent(now_s, size, level))
        now_s += 1 / camera.fps(now_s)
    return sent


@dataclass(frozen=True)
class Decoded:
    """A frame that arrived and was decoded."""

    at_s: float
    age_s: float
    message_bytes: int
    level: int


@dataclass
class _OnTheWay:
    captured_s: float
    message_bytes: int
    level: int
    left_bytes: float
    arrives_s: float = 0.0


@dataclass
class Link:
    """A queue that is emptied at `bytes_per_s`, a delay, a decoder with a queue of its own, and credit.

    The queue has no end: TCP loses nothing, and what a small buffer on the way does not take waits in the sender.
    """

    bytes_per_s: Callable[[float], float]
    delay_s: Callable[[float], float] = lambda t: 0.02
    decode_s: Callable[[float], float] = lambda t: 0.005
    credit: int = 4

    def carry(self, controller: RateController, camera: Camera, until_s: float) -> list[Decoded]:
        """A LIVE node: two captured frames may wait for credit, and the oldest gives way. Steps of 1 ms."""
        captured: deque[float] = deque()
        queue: deque[_OnTheWay] = deque()
        arriving: deque[_OnTheWay] = deque()
        acks: deque[float] = deque()
        decoded: list[Decoded] = []
        in_flight = missed = 0
        capture_s = decoder_free_s = 0.0
        for step in range(round(until_s * 1000)):
            now_s = step / 1000
            if now_s >= capture_s:
                capture_s += 1 / camera.fps(now_s)
                captured.append(now_s)
                if len(captured) > 2:
                    captured.popleft()
                    missed += 1
            while acks and acks[0] <= now_s:
                acks.popleft()
                in_flight -= 1
                controller.acknowledged(now_s, 1)
            while captured and in_flight < self.credit:
                taken_s = captured.popleft()
                level = controller.choose(now_s, missed=missed)
                missed = 0
                if level is None:
                    continue
                size = camera.size(level, now_s)
                controller.coded(level, size)
                controller.sent(now_s, size)
                in_flight += 1
                queue.append(_OnTheWay(taken_s, size, level, size))
            room = self.bytes_per_s(now_s) / 1000
            while queue and room > 0:
                part = min(room, queue[0].left_bytes)
                room -= part
                queue[0].left_bytes -= part
                if queue[0].left_bytes == 0:
                    arriving.append(queue.popleft())
                    arriving[-1].arrives_s = now_s + self.delay_s(now_s)
            while arriving and max(arriving[0].arrives_s, decoder_free_s) <= now_s:
                frame = arriving.popleft()
                decoder_free_s = done_s = now_s + self.decode_s(now_s)
                acks.append(done_s + self.delay_s(now_s))
                decoded.append(Decoded(done_s, done_s - frame.captured_s, frame.message_bytes, frame.level))
        return decoded
