from __future__ import annotations

import itertools
import struct
import threading
import time
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ndsc.codec.frames import write_image
from ndsc.evaluate import list_pairs
from ndsc.scene import SceneConfig, StereoScene
from ndsc.sources import SourceError, open_source

SECOND_US = 1_000_000
EPOCH_US = 1_700_000_000 * SECOND_US
SMALL = "width=32&height=16"


class FakeTimer:
    """Time that passes only while someone waits, plus `step_us` for each look at the clock."""

    def __init__(self, now_us: int, step_us: int = 0) -> None:
        self.time_us = now_us
        self.step_us = step_us
        self.waits_s: list[float] = []

    def now_us(self) -> int:
        self.time_us += self.step_us
        return self.time_us

    def wait(self, seconds: float, stop: threading.Event) -> None:
        self.waits_s.append(seconds)
        self.time_us += round(seconds * SECOND_US)


def picture(level: int, width: int = 20, height: int = 12) -> NDArray[np.uint8]:
    image = np.full((height, width, 3), level, np.uint8)
    image[: height // 2, : width // 2] = (200, 40, 10)
    return image


def fill(folder: Path, levels: list[int]) -> None:
    for number, level in enumerate(levels):
        write_image(folder / f"frame_{number:03d}.png", picture(level))


def write_video(path: Path, levels: list[int], *, fps: int = 25, width: int = 64, height: int = 48) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 4_000_000
        for level in levels:
            frame = av.VideoFrame.from_ndarray(picture(level, width, height), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_folder_plays_in_the_order_of_names_at_epoch_plus_i_over_fps(tmp_path: Path) -> None:
    fill(tmp_path, [10, 60, 110])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"not an image")
    with closing(open_source(str(tmp_path), epoch_us=EPOCH_US, fps=3, realtime=False)) as source:
        assert (source.width, source.height, source.clock, source.epoch_us) == (20, 12, "synthetic", EPOCH_US)
        frames = list(source)
    assert [frame.name for frame in frames] == ["frame_000.png", "frame_001.png", "frame_002.png"]
    assert [frame.capture_time_us - EPOCH_US for frame in frames] == [0, 333_333, 666_667]
    for frame, level in zip(frames, [10, 60, 110], strict=True):
        np.testing.assert_array_equal(frame.image, picture(level))


def test_a_folder_plays_ten_frames_a_second_from_the_next_whole_second(tmp_path: Path) -> None:
    fill(tmp_path, [1, 2])
    timer = FakeTimer(EPOCH_US + 250_000)
    frames = list(open_source(str(tmp_path), timer=timer))
    assert [frame.capture_time_us for frame in frames] == [EPOCH_US + SECOND_US, EPOCH_US + 1_100_000]
    assert timer.waits_s == [0.75, 0.1]


def test_loop_goes_on_in_time_and_limit_ends_it(tmp_path: Path) -> None:
    fill(tmp_path, [1, 2])
    source = open_source(str(tmp_path), epoch_us=0, realtime=False, loop=True, limit=5)
    frames = list(source)
    assert [int(frame.image[-1, -1, 0]) for frame in frames] == [1, 2, 1, 2, 1]
    assert [frame.capture_time_us for frame in frames] == [0, 100_000, 200_000, 300_000, 400_000]


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    fill(tmp_path, [1, 2])
    write_image(tmp_path / "frame_001a.png", picture(5, width=24))
    frames = iter(open_source(str(tmp_path), realtime=False))
    next(frames), next(frames)
    with pytest.raises(SourceError, match=r"frame_001a\.png: 24x12 pixels, but frame_000\.png has 20x12"):
        next(frames)


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    fill(tmp_path, [1])
    (tmp_path / "frame_001.jpg").write_bytes(b"no picture")
    frames = iter(open_source(str(tmp_path), realtime=False))
    next(frames)
    with pytest.raises(SourceError, match=r"frame_001\.jpg"):
        next(frames)


def test_every_kind_of_image_that_is_read_is_played_and_paired(tmp_path: Path) -> None:
    Image.init()
    # Of those two, one holds moving pictures and the other floating-point numbers.
    suffixes = {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF") and suffix not in (".apng", ".pfm")
    }
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        for suffix in suffixes:
            Image.fromarray(picture(90)).save(tmp_path / side / f"{suffix[1:]}{suffix}")
    names = sorted(f"{suffix[1:]}{suffix}" for suffix in suffixes)
    assert [frame.name for frame in open_source(str(tmp_path / "left"), realtime=False)] == names
    assert [pair.left.name for pair in list_pairs(tmp_path)] == names


def test_real_time_gives_no_frame_before_its_capture_time(tmp_path: Path) -> None:
    fill(tmp_path, [1, 2, 3, 4])
    timer = FakeTimer(EPOCH_US - 2 * SECOND_US)
    given = [
        (timer.time_us, frame.capture_time_us)
        for frame in open_source(str(tmp_path), epoch_us=EPOCH_US, fps=4, timer=timer)
    ]
    assert given == [(time_us, time_us) for time_us in range(EPOCH_US, EPOCH_US + SECOND_US, 250_000)]


def test_a_slow_consumer_gets_late_frames_at_once(tmp_path: Path) -> None:
    fill(tmp_path, [1, 2, 3, 4])
    timer = FakeTimer(EPOCH_US)
    given = []
    for frame in open_source(str(tmp_path), epoch_us=EPOCH_US, timer=timer):
        given.append((timer.time_us - EPOCH_US, frame.capture_time_us - EPOCH_US))
        timer.time_us += 150_000 if len(given) < 3 else 0
    assert given == [(0, 0), (150_000, 100_000), (300_000, 200_000), (300_000, 300_000)]
    assert timer.waits_s == []


def test_an_epoch_in_the_past_keeps_the_distances_between_frames(tmp_path: Path) -> None:
    fill(tmp_path, [1, 2, 3])
    timer = FakeTimer(EPOCH_US)
    given = [
        (timer.time_us - EPOCH_US, frame.capture_time_us)
        for frame in open_source(str(tmp_path), epoch_us=0, timer=timer)
    ]
    assert given == [(0, 0), (100_000, 100_000), (200_000, 200_000)]


def test_close_ends_a_wait_at_once(tmp_path: Path) -> None:
    fill(tmp_path, [1, 2])
    source = open_source(str(tmp_path), epoch_us=time.time_ns() // 1000 + 3600 * SECOND_US)
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.extend(source), daemon=True)
    thread.start()
    source.close()
    thread.join(10)
    assert not thread.is_alive()
    assert got == []


def test_a_video_file_plays_at_its_own_rate(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, [10, 60, 110, 160])
    source = open_source(str(path), epoch_us=EPOCH_US, realtime=False)
    assert (source.width, source.height, source.clock) == (64, 48, "synthetic")
    frames = list(source)
    assert [frame.capture_time_us - EPOCH_US for frame in frames] == [0, 40_000, 80_000, 120_000]
    for frame, level in zip(frames, [10, 60, 110, 160], strict=True):
        difference = np.abs(frame.image.astype(int) - picture(level, 64, 48))
        assert difference.mean() < 4, "colours or rows are mixed up"


def test_fps_of_a_video_file_can_be_overridden_and_it_loops(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    write_video(path, [10, 200])
    source = open_source(str(path), epoch_us=0, fps=2, realtime=False, loop=True, limit=4)
    frames = list(source)
    assert [frame.capture_time_us for frame in frames] == [0, 500_000, SECOND_US, 1_500_000]
    assert [frame.image[-1, -1, 0] > 100 for frame in frames] == [False, True, False, True]


def test_a_video_file_is_turned_as_it_asks(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, [10])
    data = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter_turn_clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    track = data.index(b"tkhd")
    place = data.index(upright, track)
    path.write_bytes(data[:place] + quarter_turn_clockwise + data[place + len(upright) :])
    source = open_source(str(path), realtime=False)
    assert (source.width, source.height) == (48, 64)
    image = next(iter(source)).image
    expected = np.rot90(picture(10, 64, 48), -1)
    assert np.abs(image.astype(int) - expected).mean() < 4


def test_a_damaged_video_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, [10, 60])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SourceError, match=r"clip\.mp4: not a video file"):
        open_source(str(path))


@pytest.mark.parametrize("name", ["notes.txt", "list.m3u8", "empty.mp4"])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, name: str) -> None:
    # FFmpeg would draw the text as a picture, and follow the playlist to other files.
    contents = {
        "notes.txt": "some words\n" * 100,
        "empty.mp4": "",
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.ts\n#EXT-X-ENDLIST\n",
    }
    (tmp_path / name).write_text(contents[name])
    with pytest.raises(SourceError, match="not a video file"):
        open_source(str(tmp_path / name))


def test_a_sound_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(SourceError, match="no video stream"):
        open_source(str(path))


def test_the_synthetic_scene_shows_its_capture_time() -> None:
    address = f"synthetic:right?seed=3&{SMALL}"
    source = open_source(address, epoch_us=5 * SECOND_US, fps=4, realtime=False, limit=2)
    assert (source.width, source.height, source.clock) == (32, 16, "synthetic")
    scene = StereoScene(SceneConfig(seed=3, width=32, height=16))
    frames = list(source)
    assert [frame.capture_time_us for frame in frames] == [5_000_000, 5_250_000]
    for frame, time_s in zip(frames, [5.0, 5.25], strict=True):
        np.testing.assert_array_equal(frame.image, scene.render(time_s, "right"))


def test_two_synthetic_sources_agree_on_the_instant_whenever_they_start() -> None:
    early = open_source(f"synthetic:left?{SMALL}", epoch_us=EPOCH_US, realtime=False)
    late = open_source(f"synthetic:left?{SMALL}", epoch_us=EPOCH_US + SECOND_US, realtime=False)
    after_one_second = next(itertools.islice(early, 10, None))
    first = next(iter(late))
    assert after_one_second.capture_time_us == first.capture_time_us
    np.testing.assert_array_equal(after_one_second.image, first.image)


def test_the_drive_leaves_out_what_was_missed_as_a_camera_does() -> None:
    timer = FakeTimer(EPOCH_US - SECOND_US // 2)
    source = open_source(f"synthetic:left?{SMALL}", timer=timer)
    assert source.epoch_us == EPOCH_US - SECOND_US // 2
    timer.time_us = EPOCH_US + 2 * SECOND_US + 50_000  # half of a frame after frame 20
    frames = iter(source)
    assert next(frames).capture_time_us == EPOCH_US + 2_100_000
    assert timer.time_us == EPOCH_US + 2_100_000
    assert next(frames).capture_time_us == EPOCH_US + 2_200_000
    timer.time_us += SECOND_US - 10_000
    assert next(frames).capture_time_us == EPOCH_US + 3_200_000


@pytest.mark.parametrize("fps", [0.4, 7.5, 10, 29.97])
def test_two_drives_of_one_rate_show_the_same_instants(fps: float) -> None:
    found = []
    for start_us in (EPOCH_US + 123_456, EPOCH_US + 3 * SECOND_US + 210_000):
        timer = FakeTimer(start_us)
        source = open_source(f"synthetic:left?{SMALL}", fps=fps, timer=timer)
        found.append({f.capture_time_us: f.image for f in itertools.islice(source, 130)})
    common = set(found[0]) & set(found[1])
    assert len(common) > 30
    assert {t for t in found[0] if t >= min(found[1])} == common
    for moment in common:
        np.testing.assert_array_equal(found[0][moment], found[1][moment])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("synthetic:up", "no such view"),
        ("synthetic:left?size=4", "'size' is not known"),
        ("synthetic:left?seed=x", "seed must be a whole number, not 'x'"),
        ("synthetic:left?width=0", "width and height must be at least 1 pixel"),
        ("http://localhost/clip.mp4", "no source of this kind; give a folder"),
        ("nowhere", "nowhere: no such folder or file; give a folder"),
        ("", "(empty): no such folder or file"),
        ("camera:", "write camera:/dev/video0"),
        ("camera:/dev/absent-camera", "camera:/dev/absent-camera: No such file or directory; ls /dev/video"),
    ],
)
def test_an_address_that_names_nothing_says_what_to_give(address: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(address)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images here"):
        open_source(str(tmp_path))


def test_arguments_out_of_range_are_refused() -> None:
    for fps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SourceError, match="fps"):
            open_source(f"synthetic:left?{SMALL}", fps=fps)
    with pytest.raises(SourceError, match="limit"):
        open_source(f"synthetic:left?{SMALL}", limit=0)
    with pytest.raises(SourceError, match="1970"):
        open_source(f"synthetic:left?{SMALL}", epoch_us=-1)


def test_a_live_source_takes_no_times_from_outside() -> None:
    with pytest.raises(SourceError, match="leave out epoch and loop"):
        open_source("rtsp://127.0.0.1:1/x", epoch_us=0)
    with pytest.raises(SourceError, match="leave out epoch and loop"):
        open_source("camera:/dev/video0", loop=True)
    with pytest.raises(SourceError, match="leave out fps"):
        open_source("rtsp://127.0.0.1:1/x", fps=5)
