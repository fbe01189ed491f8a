"""Folders of stereo pairs: what is found, and what a user is told when something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndsc.codec.errors import NdscError
from ndsc.evaluate import PairPaths, PairsError, list_pairs


def make(directory: Path, left: str, right: str) -> Path:
    """Empty files with the given names, separated by spaces, in `left` and `right`."""
    for side, names in (("left", left), ("right", right)):
        (directory / side).mkdir(parents=True)
        for name in names.split():
            (directory / side / name).touch()
    return directory


def test_pairs_come_sorted_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    make(tmp_path, left="b.png a.JPG c.tiff", right="c.webp a.png b.png")
    assert list_pairs(tmp_path) == [
        PairPaths("a", tmp_path / "left/a.JPG", tmp_path / "right/a.png"),
        PairPaths("b", tmp_path / "left/b.png", tmp_path / "right/b.png"),
        PairPaths("c", tmp_path / "left/c.tiff", tmp_path / "right/c.webp"),
    ]


def test_names_with_dots_keep_all_but_the_suffix(tmp_path: Path) -> None:
    make(tmp_path, left="drive.1.png drive.2.png", right="drive.1.png drive.2.png")
    assert [pair.name for pair in list_pairs(tmp_path)] == ["drive.1", "drive.2"]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, left="a.png notes.txt .hidden.png", right="a.png Thumbs.db")
    (tmp_path / "left" / "folder.png").mkdir()
    assert [pair.name for pair in list_pairs(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("left", "right", "file", "folder"),
    [
        ("a.png b.png c.png", "a.png", "left/b.png", "right"),
        ("a.png", "a.png b.png c.png", "right/b.png", "left"),
        ("b.png", "a.png", "right/a.png", "left"),
        ("a.png", "", "left/a.png", "right"),
    ],
)
def test_the_first_missing_partner_is_named(
    tmp_path: Path, left: str, right: str, file: str, folder: str
) -> None:
    make(tmp_path, left, right)
    with pytest.raises(PairsError) as caught:
        list_pairs(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / file}: no partner")
    assert message.endswith(str(tmp_path / folder))
    assert "\n" not in message


@pytest.mark.parametrize("missing", ["left", "right"])
def test_a_missing_folder_is_named(tmp_path: Path, missing: str) -> None:
    make(tmp_path, "a.png", "a.png")
    (tmp_path / missing / "a.png").unlink()
    (tmp_path / missing).rmdir()
    with pytest.raises(PairsError, match="no such folder") as caught:
        list_pairs(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / missing))


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt", "")
    with pytest.raises(PairsError, match="hold no images"):
        list_pairs(tmp_path)


def test_two_images_of_one_stem_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "a.png a.jpg", "a.png")
    with pytest.raises(PairsError, match=r"a\.png: a\.jpg has the same stem"):
        list_pairs(tmp_path)


def test_pairs_error_is_one_of_the_packages_errors() -> None:
    assert issubclass(PairsError, NdscError)
