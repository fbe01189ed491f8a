"""Public archives, read as their makers publish them: as zip files, or unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ndsc.codec.errors import NdscError

Folder = Path | zipfile.Path
"""A folder on disk or within a zip file; both know `/`, `iterdir`, `exists` and `read_bytes`."""


class DataSetError(NdscError):
    """A data set is missing or incomplete; the message says what to download from where."""


def open_archive(directory: Path, name: str, inside: str, makers: str) -> Folder:
    """The folder `inside` of an archive that lies below `directory`.

    Looked for, in this order: DIRECTORY/NAME.zip, DIRECTORY/NAME/INSIDE, DIRECTORY/INSIDE.

    Raises:
        DataSetError: none is there, or the zip file is damaged or another one; the message names `makers`, the
            page to get it from.
    """
    archive = directory / f"{name}.zip"
    if archive.exists():
        try:
            found = zipfile.Path(archive, f"{inside}/")
        except (OSError, zipfile.BadZipFile) as error:
            raise DataSetError(f"{archive}: {error}; download it again from {makers}") from error
        if not found.exists():
            raise DataSetError(f"{archive} holds no {inside}/; download {name}.zip from {makers}")
        return found
    for folder in (directory / name / inside, directory / inside):
        if folder.is_dir():
            return folder
    raise DataSetError(
        f"{directory}: no {name}.zip and no folder {inside}; download {name}.zip from {makers}"
    )


def read_bytes(folder: Folder, name: str) -> bytes:
    """One file of a folder. Raises DataSetError when it is not there."""
    file = folder / name
    if not file.exists():
        raise DataSetError(f"{file}: missing; the archive is not complete, download or unpack it again")
    return file.read_bytes()
