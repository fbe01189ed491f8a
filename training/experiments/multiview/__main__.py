"""`python -m training.experiments.multiview`: no, one and two side views at the decoder, at equal bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from training.experiments import recipe
from training.experiments.fixed_rate import Setup, progress_bar, run_folder, train
from training.experiments.multiview.data import Scenes, load_stereo, render_drives, select
from training.experiments.multiview.plot import plot
from training.experiments.seeds import Estimate, estimate, paired
from training.paper.convolutional import FamilyConfig, Mode
from training.paper.scoring import score

Arrangement = tuple[str, ...]
"""Names of the side views; none is the separate mode."""

ARRANGEMENTS: Final[dict[str, tuple[Arrangement, ...]]] = {
    "stereo": ((), ("colour",), ("grey",), ("half size",), ("edges",), ("half size", "edges")),
    "drive": ((), ("right",), ("earlier",), ("right", "earlier"), ("right", "unrelated")),
}
FAMILY: Final = FamilyConfig((8, 16, 32, 64), 16, 1, latent_dimension=32)
SETUP: Final = Setup(
    FAMILY, (4,), seeds=3, steps=400, batch_size=8, window_px=96, learning_rate=1.5e-3,
)  # fmt: skip
SMOKE: Final = replace(SETUP, seeds=2, steps=16, batch_size=4, window_px=64, unquantized_steps=8)
TEST_WINDOW_PX: Final = 96
DRIVES, MOMENTS, TEST_MOMENTS = 48, 6, 3
"""Drives to train on (a third as many again to test on), and instants of each."""


@dataclass(frozen=True)
class Run:
    """One trained code: an arrangement and a seed."""

    views: Arrangement
    seed: int
    total_bits: int
    mse: float
    psnr_db: float
    wrong_last_view_psnr_db: float | None
    """The last side view is another sample's, seen by a code that was trained with the right one."""
    seconds: float


def main(
    stereo: Annotated[Path | None, typer.Option(help="Folder with train/, val/ and test/ of pairs.")] = None,
    drives: Annotated[int, typer.Option(help="Synthetic drives to train on; 0 leaves them out.")] = DRIVES,
    bits: Annotated[int, typer.Option(help="Bits of an index.")] = SETUP.bits[0],
    seeds: Annotated[int, typer.Option(help="Runs of each code, 2 or more.")] = SETUP.seeds,
    steps: Annotated[int, typer.Option(help="Training steps of each code.")] = SETUP.steps,
    batch_size: Annotated[int, typer.Option(help="Windows of one step.")] = SETUP.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Adam's, at its highest.")] = SETUP.learning_rate,
    width: Annotated[float, typer.Option(help="All channel counts times this.")] = 1.0,
    layers: Annotated[int, typer.Option(help="Residual layers at each resolution.")] = FAMILY.residual_layers,
    split: Annotated[str, typer.Option(help="test, or val to choose settings.")] = "test",
    output: Annotated[Path, typer.Option(help="Folder of runs and results; finished runs are kept.")] = Path(
        "runs/multiview"
    ),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves it to torch.")] = 1,
    smoke: Annotated[bool, typer.Option(help="Everything in seconds, on synthetic drives.")] = False,
) -> None:
    """Train one code for each arrangement of side views; PSNR at equal bits, with bars over seeds."""
    recipe.use_threads(threads)
    where = recipe.pick_device(device)
    if split not in ("val", "test"):
        raise recipe.RecipeError(f"no split {split!r}; give test or val")
    setup = SMOKE
    if not smoke:
        setup = replace(
            SETUP,
            family=FAMILY.scaled(width, layers),
            bits=(bits,),
            seeds=seeds,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
        )
    results = recipe.Results(
        "multiview", setup.to_dict() | {"split": split}, smoke=smoke, device=device, seconds=0.0
    )
    data: dict[str, Scenes] = {}
    with Console(stderr=True).status("reading") as status:
        if smoke:
            data["drive"] = Scenes(render_drives(range(4), 2), render_drives(range(4, 6), 2))
        elif drives:
            first = 1000 if split == "test" else 2000
            data["drive"] = Scenes(
                render_drives(range(drives), MOMENTS, status.update),
                render_drives(range(first, first + max(2, drives // 3)), TEST_MOMENTS, status.update),
            )
        if stereo and not smoke:
            data["stereo"] = load_stereo(stereo, split, TEST_WINDOW_PX, status.update)
    if not data:
        raise recipe.RecipeError("no data: give --stereo, or --drives above 0")
    for name, scenes in data.items():
        scenes = Scenes(
            {view: picture.to(where) for view, picture in scenes.train.items()},
            {view: picture.to(where) for view, picture in scenes.test.items()},
        )
        results.notes.append(
            f"{name}: {len(scenes.train['source'])} training frames, {len(scenes.test['source'])} measured windows"
        )
        runs = compare(name, setup, scenes, output)
        results.rows += summarise(name, runs)
        results.seconds = (results.seconds or 0) + sum(run.seconds for run in runs)
    if smoke:
        _check(results.rows)
    results.save(output)
    plot(results.rows, output / "plot")
    print(recipe.markdown_table(results.rows))


def compare(name: str, setup: Setup, scenes: Scenes, output: Path) -> list[Run]:
    """Train and score one code for each arrangement and seed."""
    folder = run_folder(
        output, name, setup, *(select(views, ARRANGEMENTS[name][1]) for views in (scenes.train, scenes.test))
    )
    codes = [(seed, arrangement) for seed in range(setup.seeds) for arrangement in ARRANGEMENTS[name]]
    runs = []
    with progress_bar(len(codes) * setup.steps) as advance:
        for seed, arrangement in codes:
            # Without side views the network stays that of one view, which is a constant picture.
            shown = arrangement or ARRANGEMENTS[name][1]
            train_views, test_views = select(scenes.train, shown), select(scenes.test, shown)
            mode = Mode.DISTRIBUTED if arrangement else Mode.SEPARATE
            config = setup.code(train_views, setup.bits[0], mode)
            code = f"{'+'.join(arrangement) or 'none'}-{setup.bits[0]}bit-{seed}"
            trained = train(
                setup, train_views, test_views, config, seed, folder / code.replace(" ", "-"),
                lambda done, code=code: advance(code, done),  # type: ignore[misc]
            )  # fmt: skip
            wrong = (
                score(trained.model, test_views, wrong_side_view=len(shown) - 1).psnr_db
                if arrangement
                else None
            )
            got = trained.score
            runs.append(Run(arrangement, seed, got.bits, got.mse, got.psnr_db, wrong, trained.seconds))
    return runs


def summarise(name: str, runs: Sequence[Run]) -> list[recipe.Row]:
    """One row for each arrangement; gains are paired by seed."""
    by_views: dict[Arrangement, list[Run]] = {}
    for run in runs:
        by_views.setdefault(run.views, []).append(run)
    psnr = {views: [run.psnr_db for run in of_views] for views, of_views in by_views.items()}
    rows: list[recipe.Row] = []
    for views, of_views in by_views.items():
        level = estimate(psnr[views])
        over_none = paired(psnr[views], psnr[()]) if views else None
        over_first = paired(psnr[views], psnr[views[:1]]) if len(views) > 1 else None
        wrong = [r.wrong_last_view_psnr_db for r in of_views if r.wrong_last_view_psnr_db is not None]
        rows.append(
            {
                "data": name,
                "views": " + ".join(views) or "none",
                "total_bits": of_views[0].total_bits,
                "seeds": len(of_views),
                "mse": estimate([run.mse for run in of_views]).mean,
                "psnr_db": level.mean,
                "psnr_se_db": level.standard_error,
                **_columns("gain_over_none_db", "gain_ci95_db", over_none),
                **_columns("gain_over_first_view_db", "first_view_ci95_db", over_first),
                "wrong_last_view_gain_db": paired(wrong, psnr[()]).mean if views else None,
            }
        )
    return rows


def _columns(mean: str, bar: str, value: Estimate | None) -> dict[str, float | None]:
    return {mean: value.mean if value else None, bar: value.half_width if value else None}


def _check(rows: Sequence[recipe.Row]) -> None:
    """What even seconds of training must show. Raises RecipeError."""
    if len({row["total_bits"] for row in rows}) != 1:
        raise recipe.RecipeError("codes of one comparison send different numbers of bits")
    for row in rows:
        if not 8 < float(row["psnr_db"] or 0) < 40:
            raise recipe.RecipeError(f"{row['views']}: {row['psnr_db']} dB cannot be right")
        if row["views"] != "none" and row["wrong_last_view_gain_db"] == row["gain_over_none_db"]:
            raise recipe.RecipeError(f"{row['views']}: the decoder does not look at its last view")


if __name__ == "__main__":
    recipe.run(main)
