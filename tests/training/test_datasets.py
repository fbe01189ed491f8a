"""KITTI and Cityscapes out of archives that are laid out as the official ones."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from ndsc.codec.frames import encode_image
from training.datasets import cityscapes, kitti
from training.datasets.archives import DataSetError

SCENES = {"data_scene_flow": (2, 3), "data_stereo_flow": (3, 1)}
"""Scenes in training and in testing."""


def frame(shade: int) -> bytes:
    return encode_image(np.full((4, 8, 3), shade, np.uint8), "png")


def kitti_files(archive: str) -> dict[str, bytes]:
    left, right = ("image_2", "image_3") if archive == "data_scene_flow" else ("colored_0", "colored_1")
    files = {}
    for part, scenes in zip(("training", "testing"), SCENES[archive], strict=True):
        for scene in range(scenes):
            for view, offset in ((left, 0), (right, 100)):
                for end in ("10", "11"):
                    files[f"{part}/{view}/{scene:06d}_{end}.png"] = frame(10 * scene + int(end) + offset)
        files[f"{part}/disp_occ_0/000000_10.png"] = b""  # other things in the archives are passed over
    return files


def write_zip(path: Path, files: dict[str, bytes], without: Iterable[str] = ()) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            if name not in without:
                archive.writestr(name, data)


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("unpacked", [False, True])
def test_kitti_splits_by_the_literature_s_rule(tmp_path: Path, unpacked: bool) -> None:
    for archive in SCENES:
        if unpacked:
            write_folder(tmp_path / archive, kitti_files(archive))
        else:
            write_zip(tmp_path / f"{archive}.zip", kitti_files(archive))
    counts = {split: len(kitti.list_split(tmp_path, split)) for split in kitti.SPLITS}
    assert counts == {"train": 2 * (2 + 3), "val": 3 + 1, "test": 3 + 1}
    test = list(kitti.read(tmp_path, "test"))
    assert [int(pair.left[0, 0, 0]) for pair in test] == [10, 20, 30, 10]
    assert [int(pair.right[0, 0, 0]) for pair in test] == [110, 120, 130, 110]
    assert [int(pair.left[0, 0, 0]) for pair in kitti.read(tmp_path, "val")] == [11, 21, 31, 11]


def test_the_official_archives_would_give_the_literature_s_counts() -> None:
    scenes = {"training": 194 + 200, "testing": 195 + 200}
    counts = {split: 2 * scenes[part] * len(ends) for split, (part, ends) in kitti.SPLITS.items()}
    assert counts == {"train": 1576, "val": 790, "test": 790}


def test_a_missing_archive_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"download data_scene_flow\.zip from https://www\.cvlibs\.net"):
        kitti.list_split(tmp_path, "train")
    write_zip(tmp_path / "data_scene_flow.zip", kitti_files("data_scene_flow"))
    with pytest.raises(DataSetError, match=r"download data_stereo_flow\.zip"):
        kitti.list_split(tmp_path, "train")


def test_a_missing_partner_and_a_damaged_zip_are_named(tmp_path: Path) -> None:
    files = kitti_files("data_scene_flow")
    write_zip(tmp_path / "data_scene_flow.zip", files, without=["testing/image_3/000001_10.png"])
    write_zip(tmp_path / "data_stereo_flow.zip", kitti_files("data_stereo_flow"))
    with pytest.raises(DataSetError, match=r"image_3/000001_10\.png: missing"):
        list(kitti.read(tmp_path, "test"))
    (tmp_path / "data_stereo_flow.zip").write_bytes(b"half a download")
    with pytest.raises(DataSetError, match="download it again"):
        kitti.list_split(tmp_path, "test")
    write_zip(tmp_path / "data_stereo_flow.zip", {"something/else.txt": b""})
    with pytest.raises(DataSetError, match="holds no testing/colored_0"):
        kitti.list_split(tmp_path, "test")


def test_cityscapes_pairs_by_city_and_name(tmp_path: Path) -> None:
    for view, offset in (("leftImg8bit", 0), ("rightImg8bit", 100)):
        files = {
            f"{view}/{split}/{city}/{city}_000000_{number:06d}_{view}.png": frame(number + offset)
            for split, city, number in (("train", "bonn", 2), ("train", "aachen", 1), ("val", "ulm", 3))
        }
        write_zip(tmp_path / f"{view}_trainvaltest.zip", files | {"README": b"", "license.txt": b""})
    names = [files.name for files in cityscapes.list_split(tmp_path, "train")]
    assert names == ["aachen_000000_000001", "bonn_000000_000002"]
    (pair,) = cityscapes.read(tmp_path, "val")
    assert (int(pair.left[0, 0, 0]), int(pair.right[0, 0, 0])) == (3, 103)
    (tmp_path / "rightImg8bit_trainvaltest.zip").unlink()
    with pytest.raises(DataSetError, match=r"rightImg8bit_trainvaltest\.zip from https://www\.cityscapes"):
        cityscapes.list_split(tmp_path, "val")
