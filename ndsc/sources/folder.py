"""A folder of images, in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ndsc.codec.errors import ImageError
from ndsc.codec.frames import IMAGE_SUFFIXES, Frame, read_image
from ndsc.sources.source import SourceError


class FolderReader:
    """Images of one size. Other files and hidden files in the folder are passed over.

    Raises SourceError when the folder holds no image, and while reading for a file that is not a readable
    image or of another size than the first.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._paths = sorted(
                path
                for path in folder.iterdir()
                if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
            )
        except OSError as error:
            raise SourceError(f"{folder}: cannot be read: {error.strerror or error}") from error
        if not self._paths:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"{folder}: no images here ({known}); name a folder that holds some")
        self.height, self.width = _read(self._paths[0]).shape[:2]

    def pictures(self) -> Iterator[tuple[str, Frame]]:
        """(file name, uint8 [height, width, 3]) in the order of the names."""
        for path in self._paths:
            image = _read(path)
            if image.shape[:2] != (self.height, self.width):
                height, width = image.shape[:2]
                raise SourceError(
                    f"{path}: {width}x{height} pixels, but {self._paths[0].name} has "
                    f"{self.width}x{self.height}; all images of a folder must have one size"
                )
            yield path.name, image


def _read(path: Path) -> Frame:
    try:
        return read_image(path)
    except ImageError as error:
        raise SourceError(f"{error}; replace it or take it out of the folder") from error
