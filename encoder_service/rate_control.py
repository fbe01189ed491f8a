"""Rate control: which rate level the next frame is coded at, or whether it is left out.

A budget of bytes fills at the target rate, and each frame takes the level whose size lies nearest to the budget;
what it costs more or less goes to the frames after it. So levels alternate as evenly as they can, frames are left
out just as evenly where not even the lowest level fits, and over any stretch of time the bytes miss the target by
a frame or two. Sizes are predicted from frames coded before: a prediction may be wrong, the account is not.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, TypeAlias

from encoder_service.link_rate import LinkRate

BURST_S: Final = 0.5
"""What frames leave of the budget is kept, up to so many seconds of the target rate, or one frame."""
DEBT_S: Final = 0.25
"""Frames are left out only when the budget is overdrawn by so many seconds of the target rate."""
SENT_WINDOW_S: Final = 2.0
"""`sent_kbps` is a mean over this time."""


@dataclass(frozen=True)
class FixedLevel:
    """Every frame at one level, whatever it takes."""

    rate_level: int


@dataclass(frozen=True)
class TargetRate:
    """Bytes of Frame messages, in kbit/s of 1000 bits."""

    kbps: float

    def __post_init__(self) -> None:
        if not 0 < self.kbps < math.inf:
            raise ValueError(f"the target rate must be more than 0 kbit/s, not {self.kbps:g}")


@dataclass(frozen=True)
class FollowLink:
    """What the link and the decoder carry, found out from acknowledgements."""


Rate: TypeAlias = FixedLevel | TargetRate | FollowLink
"""What a node is held to."""


class RateController:
    """Holds one camera's stream to a rate. Times are seconds of any clock that does not go back.

    Call `choose` before each frame and `coded` after it unless it is left out; `sent`, `acknowledged` and
    `disconnected` as it happens.
    """

    def __init__(self, levels: int, rate: Rate) -> None:
        """`levels`: how many rate levels the bundle has. Raises ValueError for a level beyond them."""
        self._sizes = FrameSizes(levels)
        self._rate = _checked(rate, levels)
        self._link = LinkRate()
        self._budget_bytes = 0.0
        self._captured_s: float | None = None
        self._sent: deque[tuple[float, int]] = deque()

    @property
    def rate(self) -> Rate:
        """What the stream is held to. Setting it raises ValueError for a level that the bundle lacks."""
        return self._rate

    @rate.setter
    def rate(self, rate: Rate) -> None:
        if rate != self._rate:
            self._rate = _checked(rate, self._sizes.levels)
            self._budget_bytes = 0.0

    def change_bundle(self, levels: int) -> None:
        """Go on with a bundle of so many rate levels; a fixed level that it lacks becomes its highest."""
        self._sizes = FrameSizes(levels)
        if isinstance(self._rate, FixedLevel):
            self._rate = FixedLevel(min(self._rate.rate_level, levels - 1))

    @property
    def target_kbps(self) -> float | None:
        """The target rate at this moment; None for a fixed level."""
        match self._rate:
            case FixedLevel():
                return None
            case TargetRate(kbps):
                return kbps
            case FollowLink():
                return self._link.bytes_per_s * 8 / 1000

    def choose(
        self, now_s: float, captured_s: float | None = None, *, missed: int = 0, behind: bool = False
    ) -> int | None:
        """The level for the frame in hand; None: leave it out.

        `captured_s`: when it was captured, by a clock of its own; default now. The budget fills by that clock, so
        that frames that come in bursts, or faster than they were filmed, are coded like others. `missed`: frames
        since the last call that were dropped without asking. `behind`: frames wait on the node because the link
        does not keep up, and none may be lost. Both matter only where the rate follows the link.
        """
        captured_s = now_s if captured_s is None else captured_s
        elapsed_s = 0.0 if self._captured_s is None else max(0.0, captured_s - self._captured_s)
        self._captured_s = captured_s
        self._link.update(now_s, behind=behind)
        match self._rate:
            case FixedLevel(level):
                return level
            case TargetRate(kbps):
                bytes_per_s = kbps * 1000 / 8
            case FollowLink():
                bytes_per_s = self._link.bytes_per_s
                # Dropped frames take their share along, so that it is the level that falls, not the frame rate.
                elapsed_s /= 1 + missed
        burst_bytes = max(BURST_S * bytes_per_s, self._sizes[0])
        self._budget_bytes = min(self._budget_bytes, burst_bytes) + elapsed_s * bytes_per_s
        if not self._sizes.known:
            return 0
        if self._budget_bytes < self._sizes[0] / 2 - DEBT_S * bytes_per_s:
            return None
        return min(range(self._sizes.levels), key=lambda level: abs(self._sizes[level] - self._budget_bytes))

    def coded(self, level: int, message_bytes: int) -> None:
        """The frame became a Frame message of this size."""
        self._budget_bytes -= message_bytes
        self._sizes.learn(level, message_bytes)

    def sent(self, now_s: float, message_bytes: int) -> None:
        """A Frame message is on its way, for the first time or again."""
        self._link.sent(now_s, message_bytes)
        self._sent.append((now_s, message_bytes))
        self._forget(now_s)

    def acknowledged(self, now_s: float, frames: int) -> None:
        """So many frames, the oldest in flight, are done with."""
        self._link.acknowledged(now_s, frames)

    def disconnected(self) -> None:
        """What is in flight will not be acknowledged: it is sent again, or given up."""
        self._link.disconnected()

    def sent_kbps(self, now_s: float) -> float:
        """Bytes of Frame messages sent, in kbit/s over the last two seconds."""
        self._forget(now_s)
        return sum(size for _, size in self._sent) * 8 / 1000 / SENT_WINDOW_S

    def _forget(self, now_s: float) -> None:
        while self._sent and self._sent[0][0] <= now_s - SENT_WINDOW_S:
            self._sent.popleft()


class FrameSizes:
    """Predicts what the next frame will take at each level.

    Content changes all levels alike, from one frame to the next; the ratios between levels change slowly. What is
    not known of them yet is learned from the first frame of each level, and between such levels interpolated.
    """

    _ALIKE: Final = 0.5
    """Share of an error that goes to all levels."""
    _ALONE: Final = 0.1
    """Share of an error that goes to the coded level on top."""

    def __init__(self, levels: int) -> None:
        if levels < 1:
            raise ValueError(f"a bundle has 1 rate level or more, not {levels}")
        self._bytes = [_assumed(level) for level in range(levels)]
        self._coded: set[int] = set()

    @property
    def known(self) -> bool:
        """Whether a frame was coded yet."""
        return bool(self._coded)

    @property
    def levels(self) -> int:
        """How many rate levels there are."""
        return len(self._bytes)

    def __getitem__(self, level: int) -> float:
        """Bytes of a Frame message at `level`, predicted."""
        return self._bytes[level]

    def learn(self, level: int, message_bytes: int) -> None:
        """A frame took this at `level`."""
        ratio = max(1, message_bytes) / self._bytes[level]
        if level in self._coded:
            alike = ratio**self._ALIKE
            self._bytes = [size * alike for size in self._bytes]
            self._bytes[level] *= (ratio / alike) ** (self._ALONE / (1 - self._ALIKE))
        else:
            self._bytes[level] *= ratio
            self._coded.add(level)
            self._interpolate()

    def _interpolate(self) -> None:
        """Sizes of levels that were never coded: geometric between two that were, else as far away as assumed."""
        for level in set(range(self.levels)) - self._coded:
            below = max((one for one in self._coded if one < level), default=None)
            above = min((one for one in self._coded if one > level), default=None)
            if below is not None and above is not None:
                share = (level - below) / (above - below)
                self._bytes[level] = self._bytes[below] ** (1 - share) * self._bytes[above] ** share
            else:
                nearest = below if below is not None else above
                assert nearest is not None  # noqa: S101 - narrows the type
                self._bytes[level] = self._bytes[nearest] * _assumed(level) / _assumed(nearest)


def _assumed(level: int) -> float:
    """Size of a level against the lowest, before anything is known: rather too much, which overshoots nothing."""
    return max(1.0 + level, 1.5**level)


def _checked(rate: Rate, levels: int) -> Rate:
    if isinstance(rate, FixedLevel) and not 0 <= rate.rate_level < levels:
        raise ValueError(f"no rate level {rate.rate_level}; this bundle has 0 to {levels - 1}")
    return rate
