"""The whole report on a tiny bundle and synthetic pairs: its files agree and its page holds what it must."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ndsc.codec.bundle import Bundle
from ndsc.codec.frames import write_image
from ndsc.evaluate import evaluate
from ndsc.scene import SceneConfig, StereoScene
from training.experiments.recipe import Results
from training.report import measure, plots
from training.report.build import Job, ReportError, build
from training.report.codecs import HEIC_420, HEIC_444, PICTURE_CODECS
from training.report.page import figure, fixed
from training.report.recipes import RecipeResultsError, collect_recipes
from training.report.video import VIDEO_CODECS

CODECS = [
    replace(PICTURE_CODECS[name], ladder=PICTURE_CODECS[name].ladder[::3])
    for name in ("JPEG 4:4:4", HEIC_444, HEIC_420)
]
VIDEO = [tuple(replace(codec, ladder=(51, 42, 33)) for codec in both) for both in VIDEO_CODECS]


def make_pairs(directory: Path, width: int, height: int) -> Path:
    scene = StereoScene(SceneConfig(seed=2, width=width, height=height))
    for side in ("left", "right"):
        (directory / side).mkdir(parents=True)
    for number in range(3):
        for side, view in zip(("left", "right"), scene.pair(5.0 * number), strict=True):
            write_image(directory / side / f"{number}.png", view)
    return directory


class Page(HTMLParser):
    """Text, links, images and ids of a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.targets: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if identifier := values.get("id"):
            self.ids.append(identifier)
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag in ("svg", "img"):
            self.images.append(values.get("aria-label") or values["alt"] or "")
        for name in ("xlink:href", "clip-path"):
            if target := values.get(name):
                self.targets.append(target.removeprefix("url(").strip("#)"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def job(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("report")
    results = Results("toy", {"steps": 1}, rows=[{"who": "<ours>", "figure": -0.5, "published_figure": 0.25}])
    results.save(root / "results" / "toy")
    return Job(
        bundles=[tiny_bundle.path],
        output=root / "out",
        parts=root / "parts",
        pairs=[make_pairs(root / "test", 740, 370)],
        native=[make_pairs(root / "small", 256, 128)],
        video=root / "test",
        results=root / "results",
        picture_codecs=CODECS,
        video_codecs=[(both[0], both[1]) for both in VIDEO],
    )


@pytest.fixture(scope="module")
def page(job: Job) -> Page:
    return Page(build(job).read_text())


def test_the_page_stands_alone_and_holds_everything(page: Page, job: Job) -> None:
    text = " ".join(" ".join(page.text).split())
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.targets) <= set(page.ids)
    sections = [identifier for identifier in page.ids if identifier not in page.targets]
    assert [link.removeprefix("#") for link in page.links] == sections
    assert sections == ["kitti128", "native", "video", "published", "recipe-toy", "how"]
    assert len(page.images) >= 2 * 2 + 1 + 2
    assert all(page.images)
    for needed in (
        *("ndsc tiny, right", "ndsc tiny, none", "ndsc tiny, wrong", "JPEG 4:4:4", HEIC_444, HEIC_420),
        *("x265 intra, less floor", "x265 intra, whole files", "x264 low delay", "Flat-picture floor"),
        *(
            "Neural DSC, latent prior",
            "estimated",
            "not stated",
            "at each setting the better",
            "LPIPS",
            "<ours>",
            "−0.5",
        ),
    ):
        assert needed in text, needed
    assert str(job.output) not in text


def test_the_tables_are_the_measurements(page: Page, job: Job, tiny_bundle: Bundle) -> None:
    record = json.loads((job.output / "report.json").read_text())
    with (job.output / "table.csv").open(newline="") as file:
        means = list(csv.DictReader(file))
    with (job.output / "images.csv").open(newline="") as file:
        pictures = list(csv.DictReader(file))
    assert len(record["points"]) == len(means)
    assert len(pictures) == 3 * len(means)
    expected = evaluate(tiny_bundle, job.pairs, frame_bytes=lambda f: len(f.payload), protocol="kitti128")
    ours = [p for p in record["points"] if p["protocol"] == "kitti128" and p["codec"] == "ndsc tiny, right"]
    for point, level in zip(ours, expected.points, strict=True):
        assert point["bpp"] == pytest.approx(level.payload_bpp, rel=1e-5)
        assert point["psnr_db"] == pytest.approx(level.psnr, rel=1e-5)
        assert point["psnr_float_db"] == pytest.approx(level.psnr_float, rel=1e-5)
        assert point["ms_ssim"] == pytest.approx(level.ms_ssim, rel=1e-5)
    for point in record["points"]:
        own = [r for r in pictures if all(r[key] == point[key] for key in ("protocol", "codec", "setting"))]
        assert len(own) == point["images"] == 3
        bpp = [8 * int(r["coded_bytes"]) / int(r["pixels"]) for r in own]
        assert sum(bpp) / 3 == pytest.approx(point["bpp"], rel=1e-4)
        assert point["bpp_less_floor"] <= point["bpp"]
    for row in record["bd_rate"]:
        assert (row["interval"] is None) == (row["result"] is None or row["protocol"] == "video")
    assert {row["protocol"] for row in record["bd_rate"]} == {"kitti128", "native", "video"}
    assert any(row["interval"] for row in record["bd_rate"])
    assert any(row["anchor"] == "x265 low delay, all frames but the first" for row in record["bd_rate"])
    assert record["floors_bytes"]["kitti128"]["JPEG 4:4:4"].isdigit()


def test_plots_are_there_in_both_kinds(page: Page, job: Job) -> None:
    pngs = sorted(path.stem for path in job.output.glob("*.png"))
    assert pngs == sorted(path.stem for path in job.output.glob("*.svg"))
    assert {"kitti128_psnr_db", "native_psnr_db", "video", "published_psnr", "published_ms_ssim"} <= set(pngs)
    assert all(path.stat().st_size < 150_000 for path in job.output.glob("*.png"))


def test_a_second_report_measures_nothing_again(
    page: Page, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (job.output / "table.csv").read_text()
    monkeypatch.setattr(measure, "psnr", None)
    monkeypatch.setattr(measure, "evaluate", None)
    build(job)
    assert (job.output / "table.csv").read_text() == before
    # Another picture is another measurement.
    frame = next((job.pairs[0] / "right").iterdir())
    original = frame.read_bytes()
    try:
        frame.write_bytes(original + b" ")
        with pytest.raises(TypeError):
            build(job)
    finally:
        frame.write_bytes(original)


def test_a_second_bundle_is_compared_with_the_first(page: Page, job: Job, tmp_path: Path) -> None:
    shutil.copytree(job.bundles[0], tmp_path / "second")
    two = replace(job, bundles=[*job.bundles, tmp_path / "second"], output=tmp_path / "out", video=None)
    build(two)
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["bd_rate"]
    of_ours = [(row["test"], row["anchor"]) for row in rows if row["anchor"].startswith("ndsc")]
    assert set(of_ours) == {
        ("ndsc tiny, right", "ndsc tiny, none"),
        ("ndsc second, right", "ndsc second, none"),
        ("ndsc second, right", "ndsc tiny, right"),
        ("ndsc second, none", "ndsc tiny, none"),
    }
    styles = plots.our_styles(["ndsc tiny, right", "ndsc second, right", "ndsc second, wrong"])
    assert list(styles) == ["ndsc tiny, right", "ndsc second, right"]
    assert styles["ndsc tiny, right"]["marker"] != styles["ndsc second, right"]["marker"]


def test_what_cannot_be_reported(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="--pairs"):
        build(replace(job, pairs=(), native=(), video=None))
    with pytest.raises(ReportError, match="one name"):
        build(replace(job, bundles=[job.bundles[0], job.bundles[0]]))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "results.json").write_text('{"rows": 1}')
    with pytest.raises(RecipeResultsError, match="odd"):
        collect_recipes(tmp_path)


def test_bad_input_is_one_line_and_a_status(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "training.report",
        "--pairs",
        str(tmp_path / "none"),
        "-o",
        str(tmp_path / "out"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_cells() -> None:
    assert [figure(v) for v in (None, True, 3, -0.123456, 123456.7, "x")] == [
        "–",
        "yes",
        "3",
        "−0.1235",
        "123457",
        "x",
    ]
    assert [fixed(v, 2) for v in (None, -1.234)] == ["–", "−1.23"]
