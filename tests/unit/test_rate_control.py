"""Rate control: targets held, changes followed, links neither filled nor wasted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder_service.link_rate import FIRST_BYTES_PER_S, LEAST_BYTES_PER_S, LinkRate
from encoder_service.rate_control import FixedLevel, FollowLink, FrameSizes, Rate, RateController, TargetRate
from tests.unit.simulated_link import CLOSE_SIZES, SIZES, Camera, Decoded, Link, Sent, stream

WINDOW_S = 10.0
SETTLING_S = 2.0


def kbps_of(level: float, fps: float, sizes: Sequence[int] = SIZES) -> float:
    """What the synthetic drive takes at a level, or between two."""
    low, high = sizes[math.floor(level)], sizes[math.ceil(level)]
    return (low + (high - low) * (level % 1)) * fps * 8 / 1000


def worst_deviation(sent: Sequence[Sent], kbps: float, start_s: float, end_s: float) -> float:
    """Largest share by which the bytes of any 10 s between the two times miss the target."""
    worst, first_s = 0.0, start_s
    while first_s + WINDOW_S <= end_s:
        window = [f.message_bytes for f in sent if first_s <= f.at_s + 1e-6 < first_s + WINDOW_S]
        worst = max(worst, abs(sum(window) * 8 / 1000 / WINDOW_S / kbps - 1))
        first_s += 0.1
    assert first_s > start_s
    return worst


def longest_queue_s(sent: Sequence[Sent], kbps: float) -> float:
    """The longest that a frame would wait on a link of just the target rate."""
    queue_s, last_s, longest_s = 0.0, 0.0, 0.0
    for frame in sent:
        queue_s = max(0.0, queue_s - (frame.at_s - last_s)) + frame.message_bytes * 8 / 1000 / kbps
        last_s = frame.at_s
        longest_s = max(longest_s, queue_s)
    return longest_s


@pytest.mark.parametrize("fps", [5.0, 10.0, 30.0])
@pytest.mark.parametrize("level", [0.02, 0.25, 0.5, 0.98, 1, 1.3, 1.7, 1.95])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_targets_within_the_levels_are_held(fps: float, level: float, noise: float) -> None:
    kbps = kbps_of(level, fps)
    sent = stream(RateController(3, TargetRate(kbps)), Camera(lambda t: fps, noise=noise), 40)
    assert worst_deviation(sent, kbps, SETTLING_S, 40) < 0.05
    assert longest_queue_s(sent, kbps) < 1


@pytest.mark.parametrize("fps", [5.0, 10.0, 30.0])
@pytest.mark.parametrize("level", [0.02, 0.5, 1.3, 3.7, 5.5, 6.98])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_targets_are_held_with_levels_close_to_one_another(fps: float, level: float, noise: float) -> None:
    kbps = kbps_of(level, fps, CLOSE_SIZES)
    camera = Camera(lambda t: fps, noise=noise, sizes=CLOSE_SIZES)
    sent = stream(RateController(len(CLOSE_SIZES), TargetRate(kbps)), camera, 40)
    assert worst_deviation(sent, kbps, SETTLING_S, 40) < 0.05
    assert longest_queue_s(sent, kbps) < 1
    if noise == 0:  # what a frame costs more or less may move the next one by a level
        levels = {f.level for f in sent if f.at_s > SETTLING_S}
        assert math.floor(level) - 1 <= min(levels) <= max(levels) <= math.ceil(level) + 1


@pytest.mark.parametrize("level", [0.25, 0.5, 1.3, 1.7])
def test_levels_alternate_between_neighbours_as_evenly_as_they_can(level: float) -> None:
    camera = Camera(lambda t: 10, noise=0)
    levels = [f.level for f in stream(RateController(3, TargetRate(kbps_of(level, 10))), camera, 42)][20:]
    assert set(levels) == {math.floor(level), math.ceil(level)}
    rarer = round(level) ^ 1 if level < 1 else 3 - round(level)
    gaps = [later - earlier for earlier, later in pairwise(i for i, x in enumerate(levels) if x == rarer)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("burst", [1, 4, 16])
def test_frames_in_bursts_are_coded_like_others(burst: int) -> None:
    controller, levels = RateController(3, TargetRate(kbps_of(1.3, 10))), []
    for number in range(160):
        level = controller.choose((number // burst + 1) * burst / 10, captured_s=1e9 + number / 10)
        assert level is not None
        controller.coded(level, SIZES[level])
        levels.append(level)
    assert set(levels[10:]) == {1, 2}
    assert sum(levels[100:]) == pytest.approx(60 * 1.3, abs=1)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4, 0.5, 0.7, 0.9])
def test_below_the_lowest_level_frames_are_left_out_evenly(share: float) -> None:
    kbps = share * kbps_of(0, 10)
    sent = stream(RateController(3, TargetRate(kbps)), Camera(lambda t: 10, noise=0), 62)
    assert {f.level for f in sent} == {0}
    late = [f.at_s for f in sent if f.at_s > SETTLING_S + 1 / share / 10]
    gaps = [round(10 * (later - earlier)) for earlier, later in pairwise(late)]
    assert max(gaps) - min(gaps) <= 1
    assert fmean(gaps) == pytest.approx(1 / share, rel=0.05)


def test_above_the_highest_level_nothing_is_saved_up() -> None:
    controller = RateController(3, TargetRate(1000))
    kbps = kbps_of(0.5, 10)
    sent = stream(controller, Camera(lambda t: 10), 40, {20.0: lambda: set_rate(controller, kbps)})
    assert {f.level for f in sent if 1 < f.at_s < 20} == {2}
    assert worst_deviation(sent, kbps, 20, 40) < 0.05


@pytest.mark.parametrize("fps", [5.0, 10.0, 30.0])
@pytest.mark.parametrize(("before", "after"), [(0.1, 1.9), (1.9, 0.1), (1.5, 0.5), (0.5, 1.0)])
def test_changes_of_the_target_are_followed(fps: float, before: float, after: float) -> None:
    old_kbps, new_kbps = kbps_of(before, fps), kbps_of(after, fps)
    controller = RateController(3, TargetRate(old_kbps))
    sent = stream(controller, Camera(lambda t: fps), 40, {20.0: lambda: set_rate(controller, new_kbps)})
    assert worst_deviation(sent, old_kbps, SETTLING_S, 20) < 0.05
    assert worst_deviation(sent, new_kbps, 20 + SETTLING_S, 40) < 0.05
    first_s = [f for f in sent if 20 <= f.at_s < 21]
    assert sum(f.message_bytes for f in first_s) * 8 / 1000 < 1.5 * new_kbps


@pytest.mark.parametrize("fps", [5.0, 10.0, 30.0])
def test_changes_of_content_are_followed(fps: float) -> None:
    kbps = kbps_of(1, fps)
    camera = Camera(lambda t: fps, content=lambda t: 1.4 if 20 <= t < 40 else 0.8, noise=0.1)
    sent = stream(RateController(3, TargetRate(kbps)), camera, 60)
    for change_s in (0, 20, 40):
        assert worst_deviation(sent, kbps, change_s + SETTLING_S, change_s + 20) < 0.05
    assert longest_queue_s(sent, kbps) < 1


def test_changes_of_frame_rate_are_followed() -> None:
    kbps = 60.0  # 10 frames a second near level 1, or 25 with every seventh left out
    sent = stream(RateController(3, TargetRate(kbps)), Camera(lambda t: 25 if 20 <= t < 40 else 10), 60)
    for change_s in (0, 20, 40):
        assert worst_deviation(sent, kbps, change_s + SETTLING_S, change_s + 20) < 0.05
    assert longest_queue_s(sent, kbps) < 1


def test_a_stalled_camera_saves_no_burst() -> None:
    kbps = kbps_of(0.5, 10)
    sent = stream(
        RateController(3, TargetRate(kbps)), Camera(lambda t: 10 if t < 10 or t > 29.9 else 0.05), 50
    )
    assert not [f for f in sent if 11 < f.at_s < 29]
    after = [f for f in sent if f.at_s > 29]
    assert longest_queue_s(after, kbps) < 1
    assert worst_deviation(after, kbps, after[0].at_s + SETTLING_S, 50) < 0.05


def test_setting_the_same_rate_again_changes_nothing() -> None:
    kbps = kbps_of(0.5, 10)
    controller = RateController(3, TargetRate(kbps))
    again: dict[float, Callable[[], None]] = {t / 10: lambda: set_rate(controller, kbps) for t in range(300)}
    assert worst_deviation(stream(controller, Camera(lambda t: 10), 30, again), kbps, SETTLING_S, 30) < 0.05


def test_a_fixed_level_is_kept_and_leaves_no_debt() -> None:
    controller = RateController(3, FixedLevel(2))
    kbps = kbps_of(0.5, 10)
    sent = stream(controller, Camera(lambda t: 10), 40, {20.0: lambda: set_rate(controller, kbps)})
    assert {f.level for f in sent if f.at_s < 20} == {2}
    assert worst_deviation(sent, kbps, 20 + SETTLING_S, 40) < 0.05


def test_sizes_are_predicted_at_levels_that_are_seldom_coded() -> None:
    sizes = FrameSizes(3)
    for number in range(300):
        level, content = (0, 0, 0, 1, 0, 2)[number % 6], 1 + number / 300
        if number > 100:
            assert sizes[level] == pytest.approx(SIZES[level] * content, rel=0.05)
        sizes.learn(level, round(SIZES[level] * content))


def test_sent_kbps_is_of_the_last_two_seconds() -> None:
    controller = RateController(1, FixedLevel(0))
    assert controller.sent_kbps(0) == 0
    for tenth in range(100):
        controller.sent(tenth / 10, 500)
    assert controller.sent_kbps(9.95) == pytest.approx(40)
    assert controller.sent_kbps(10.95) == pytest.approx(20)
    assert controller.sent_kbps(12) == 0


def test_rates_that_are_none() -> None:
    for kbps in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="more than 0 kbit/s"):
            TargetRate(kbps)
    with pytest.raises(ValueError, match="no rate level 3; this bundle has 0 to 2"):
        RateController(3, FixedLevel(3))
    controller = RateController(3, FixedLevel(1))
    with pytest.raises(ValueError, match="no rate level -1"):
        controller.rate = FixedLevel(-1)
    assert controller.rate == FixedLevel(1)
    with pytest.raises(ValueError, match="1 rate level or more"):
        RateController(0, TargetRate(1))


def test_a_change_of_bundle_keeps_the_rate() -> None:
    controller = RateController(3, FixedLevel(2))
    controller.change_bundle(2)
    assert controller.rate == FixedLevel(1)
    controller.rate = TargetRate(kbps_of(0.5, 10))
    sent = stream(controller, Camera(lambda t: 10), 40, {20.0: lambda: controller.change_bundle(3)})
    assert worst_deviation(sent, kbps_of(0.5, 10), 22, 40) < 0.05


@st.composite
def events(draw: st.DrawFn) -> list[tuple[str, float, int]]:
    """(what happens, seconds since the event before, a number)."""
    kinds = ("choose", "sent", "acknowledged", "disconnected", "follow", "target", "fixed", "bundle")
    step = st.tuples(
        st.sampled_from(kinds),
        st.one_of(st.just(0.0), st.floats(0, 1e6)),
        st.one_of(st.integers(0, 3), st.integers(0, 1 << 40)),
    )
    return draw(st.lists(step, max_size=80))


@given(events(), st.integers(1, 4))
def test_whatever_happens_a_legal_level_is_chosen(steps: list[tuple[str, float, int]], levels: int) -> None:
    controller, now_s = RateController(levels, FollowLink()), 0.0
    for kind, elapsed_s, number in steps:
        now_s += elapsed_s
        match kind:
            case "choose":
                level = controller.choose(now_s, missed=number, behind=number == 2)
                assert level is None or 0 <= level < levels
                if level is not None:
                    controller.coded(level, number)
            case "sent":
                controller.sent(now_s, number)
            case "acknowledged":
                controller.acknowledged(now_s, number)
            case "disconnected":
                controller.disconnected()
            case "follow":
                controller.rate = FollowLink()
            case "target":
                controller.rate = TargetRate(number + 1e-3)
            case "fixed":
                controller.rate = FixedLevel(number % levels)
            case "bundle":
                levels = number % 4 + 1
                controller.change_bundle(levels)
        assert math.isfinite(controller.sent_kbps(now_s))
        assert controller.target_kbps is None or 0 < controller.target_kbps < math.inf


def carried(
    bytes_per_s: Callable[[float], float], until_s: float = 60, fps: float = 10, **link: object
) -> list[Decoded]:
    """What arrives when a node follows such a link."""
    controller = RateController(3, FollowLink())
    return Link(bytes_per_s, **link).carry(controller, Camera(lambda t: fps), until_s)  # type: ignore[arg-type]


def kbps_between(frames: Sequence[Decoded], start_s: float, end_s: float) -> float:
    """Rate of what was decoded between two times."""
    return sum(f.message_bytes for f in frames if start_s <= f.at_s < end_s) * 8 / 1000 / (end_s - start_s)


def oldest_s(frames: Sequence[Decoded], start_s: float, end_s: float) -> float:
    """The largest age at which a frame was decoded between two times."""
    return max(f.age_s for f in frames if start_s <= f.at_s < end_s)


def frame_rate(frames: Sequence[Decoded], start_s: float, end_s: float) -> float:
    """Frames decoded per second between two times."""
    return sum(start_s <= f.at_s < end_s for f in frames) / (end_s - start_s)


@pytest.mark.parametrize("kbps", [16.0, 32.0, 50.0, 70.0])
@pytest.mark.parametrize("credit", [4, 64])
def test_a_link_is_used_and_not_filled(kbps: float, credit: int) -> None:
    frames = carried(lambda t: kbps * 125, credit=credit)
    for start_s in range(5, 50, 5):
        assert 0.85 * kbps < kbps_between(frames, start_s, start_s + 10) < 1.05 * kbps
    assert oldest_s(frames, 10, 60) < 1.1
    # Levels fall before frames are left out.
    assert frame_rate(frames, 5, 60) > 0.9 * min(10, kbps / kbps_of(0, 1))


@pytest.mark.parametrize(("wide_kbps", "narrow_kbps"), [(64.0, 32.0), (64.0, 20.0)])
def test_changes_of_the_link_are_followed(wide_kbps: float, narrow_kbps: float) -> None:
    frames = carried(lambda t: 125 * (narrow_kbps if 20 <= t < 40 else wide_kbps))
    assert kbps_between(frames, 23, 33) > 0.8 * narrow_kbps
    assert oldest_s(frames, 20, 23) < 2.5
    assert oldest_s(frames, 23, 40) < 1.1
    assert kbps_between(frames, 43, 53) > 0.8 * wide_kbps


def test_frames_too_large_for_the_link_come_more_rarely() -> None:
    """375x1242 pixels over 100 kbit/s: even at level 0 a frame takes 0.36 s."""
    controller = RateController(3, FollowLink())
    camera = Camera(lambda t: 10, content=lambda t: 14)
    frames = Link(lambda t: 12_500).carry(controller, camera, 60)
    assert 1.7 < frame_rate(frames, 5, 60) < 2.8
    assert {f.level for f in frames if f.at_s > 5} == {0}
    assert oldest_s(frames, 5, 60) < 1.8


def test_a_link_that_carries_a_frame_a_second_is_followed() -> None:
    frames = carried(lambda t: 500)
    assert frame_rate(frames, 10, 60) > 1.2
    assert fmean(f.age_s for f in frames if f.at_s > 10) < 2


def test_a_slow_decoder_gets_no_more_than_it_takes() -> None:
    frames = carried(lambda t: 1e6, decode_s=lambda t: 1 / 3 if 20 <= t < 40 else 0.005)
    assert {f.level for f in frames if 5 < f.at_s < 20} == {2}
    assert frame_rate(frames, 23, 40) > 1.8
    assert fmean(f.age_s for f in frames if 25 < f.at_s < 40) < 0.9
    assert {f.level for f in frames if f.at_s > 48} == {2}
    assert frame_rate(frames, 48, 58) == pytest.approx(10, abs=0.2)


def test_a_decoder_that_stalls_now_and_then_costs_no_quality() -> None:
    frames = carried(lambda t: 1e6, decode_s=lambda t: max(0.02, 0.5 - t % 3))
    assert fmean(f.level for f in frames if f.at_s > 5) > 1.8
    assert frame_rate(frames, 5, 60) > 9.5


def test_a_wait_for_side_information_is_no_queue() -> None:
    """It delays every acknowledgement by a quarter of a second, and no rate would change that."""
    controller = RateController(3, FollowLink())
    waiting: list[float] = []
    levels: list[int | None] = []
    for tenth in range(400):
        now_s = tenth / 10
        while waiting and waiting[0] <= now_s:
            controller.acknowledged(waiting.pop(0), 1)
        level = controller.choose(now_s)
        levels.append(level)
        if level is not None:
            controller.coded(level, SIZES[level])
            controller.sent(now_s, SIZES[level])
            waiting.append(now_s + (0.05 if tenth < 200 else 0.3))
    assert set(levels[50:]) == {2}


def test_a_longer_way_is_no_queue_for_ever() -> None:
    frames = carried(lambda t: 1e6, until_s=50, credit=64, delay_s=lambda t: 0.4 if t > 20 else 0.02)
    assert {f.level for f in frames if 5 < f.at_s < 20} == {2}
    assert {f.level for f in frames if f.at_s > 40} == {2}
    assert frame_rate(frames, 40, 50) == pytest.approx(10, abs=0.2)


def test_a_wide_link_is_not_thought_endless() -> None:
    controller = RateController(3, FollowLink())
    Link(lambda t: 1e6).carry(controller, Camera(lambda t: 10), 30)
    assert kbps_of(2, 10) < (controller.target_kbps or 0) < 5 * kbps_of(2, 10)


def test_after_an_outage_the_rate_comes_back() -> None:
    frames = carried(lambda t: 1 if 20 <= t < 30 else 8_000)
    assert kbps_between(frames, 33, 43) > 0.8 * 64
    assert oldest_s(frames, 35, 60) < 1.1


def test_a_backlog_gets_smaller() -> None:
    """ARCHIVE: whatever is coded waits until it is sent. Behind, less is coded than the link carries."""
    link = LinkRate()
    for tenth in range(100):  # 1000 bytes each 0.1 s, acknowledged in 0.05 s
        link.sent(tenth / 10, 1000)
        link.acknowledged(tenth / 10 + 0.05, 1)
        link.update(tenth / 10 + 0.05, behind=tenth > 50)
    assert 5_000 < link.bytes_per_s < 7_500


@pytest.mark.parametrize("lost", [False, True])
def test_what_a_lost_connection_took_along_is_no_queue(lost: bool) -> None:
    link = LinkRate()
    link.sent(0, 1000)
    link.acknowledged(0.05, 1)
    link.sent(0.1, 1000)
    link.sent(0.2, 1000)
    if lost:
        link.disconnected()
        link.acknowledged(0.3, 5)
    link.update(0.3, behind=False)
    link.update(2.3, behind=False)
    assert (link.bytes_per_s > FIRST_BYTES_PER_S) == lost


def test_the_rate_never_falls_to_nothing() -> None:
    link = LinkRate()
    for tenth in range(1000):
        link.sent(tenth / 10, 1)
        link.acknowledged(tenth / 10, 1)
        link.update(tenth / 10, behind=True)
    assert link.bytes_per_s == LEAST_BYTES_PER_S


def set_rate(controller: RateController, kbps: float) -> None:
    """Hold the stream to another target."""
    rate: Rate = TargetRate(kbps)
    controller.rate = rate
