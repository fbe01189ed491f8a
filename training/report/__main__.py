"""python -m training.report: measure bundles and ordinary codecs on the same pictures; one page of all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ndsc.codec.bundle import default_bundle_path
from training.experiments.recipe import run, use_threads
from training.report.build import Job, build


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Folder of pairs, measured at 128x256; may repeat.")
    ] = None,
    native: Annotated[
        list[Path] | None, typer.Option(help="Folder of pairs, measured at full size; may repeat.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="Folder of pairs that follow one another.")] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Bundle to measure; may repeat. The released one without.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder with the results of recipes, for the page.")] = Path(
        "docs/results"
    ),
    parts: Annotated[
        Path, typer.Option(help="Where measurements are kept, so that a report that broke off goes on.")
    ] = Path("runs/report"),
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads; 0 leaves the choice to the libraries.")
    ] = 1,
) -> None:
    """Measure, compare, draw: leaves report.html, report.json, table.csv, images.csv and plots."""
    use_threads(threads)
    console = Console(stderr=True)
    job = Job(
        bundles=bundle or [default_bundle_path()],
        output=output,
        parts=parts,
        pairs=pairs or [],
        native=native or [],
        video=video,
        results=results,
        threads=threads,
    )
    with console.status("reading") as status:

        def notify(what: str) -> None:
            status.update(what)
            if not console.is_terminal:
                console.print(what)

        page = build(job, notify)
    console.print(f"wrote {page}")


if __name__ == "__main__":
    run(main)
