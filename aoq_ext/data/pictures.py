"""Picture files that are decoded when they are asked for."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aoq_ext._machine import available_cores
from aoq_ext._scalars import as_int, as_positive, check_list
from aoq_ext.data.errors import DataError
from aoq_ext.data.image_rows import LazyRows, sampled_rows

if TYPE_CHECKING:
    from hashlib import _Hash

_HASHED_PICTURES = 64
_MOST_THREADS = 8
_SIXTEEN_BITS = ("PNG", "PPM", "JPEG2000")  # whose greys beyond 8 bits Pillow gives as numbers up to 65535
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF


class Pictures(LazyRows):
    """N picture files as an array (N, 3, size, size) uint8, of which an index decodes the rows asked for.

    Each is turned upright and converted to RGB (see `open_picture`), its shorter side scaled to ``shorter_side``
    (bicubic), and its middle cut out: a function of the file alone, so that training, mining and evaluation see the
    same.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        size: int = 224,
        shorter_side: int | None = None,
        threads: int | None = None,
    ) -> None:
        """shorter_side: None: ``size``; threads: None: one a processor, at most 8."""
        check_list("paths", paths, "paths")
        size = as_positive("size", size, "number of pixels")
        shorter_side = size if shorter_side is None else as_int("shorter_side", shorter_side)
        if shorter_side < size:
            raise ValueError(f"shorter_side: expected at least size, {size} pixels, got {shorter_side}")
        super().__init__((len(paths), 3, size, size), np.dtype(np.uint8))
        self.paths = [str(path) for path in paths]
        self.size = size
        self.shorter_side = shorter_side
        if threads is None:
            threads = min(_MOST_THREADS, available_cores())
        self.threads = as_positive("threads", threads, "number or None")

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        pixels = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)

        def fill(place: int) -> None:
            pixels[place] = self._decode(self.paths[rows[place]])

        if len(rows) < 2 or self.threads == 1:
            for place in range(len(rows)):
                fill(place)
        else:  # threads of one call: a standing pool would not outlive a fork; Pillow decodes without the lock
            with ThreadPoolExecutor(min(self.threads, len(rows))) as pool:
                list(pool.map(fill, range(len(rows))))
        return pixels

    def _decode(self, path: str) -> NDArray[np.uint8]:  # (3, size, size)
        from PIL import Image

        picture = open_picture(path)
        scale = self.shorter_side / min(picture.size)
        width, height = (max(self.shorter_side, round(side * scale)) for side in picture.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        picture = picture.resize((width, height), resample=Image.Resampling.BICUBIC)
        picture = picture.crop((left, top, left + self.size, top + self.size))
        pixels: NDArray[np.uint8] = np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1)
        return pixels

    def update_hash(self, digest: _Hash) -> None:
        """Names, the size of the pictures, and the content of a few files: to read them all would take minutes."""
        digest.update(f"{self.shape}{self.shorter_side}".encode())
        digest.update("\0".join(Path(path).name for path in self.paths).encode())
        for row in sampled_rows(len(self), _HASHED_PICTURES):
            try:
                digest.update(Path(self.paths[row]).read_bytes())
            except OSError as error:
                raise DataError(f"{self.paths[row]}: expected a picture, got no file that can be read") from error


class PictureRangeError(DataError):
    """A picture whose numbers mean no known brightness."""


def open_picture(path: str) -> Any:
    """The decoded picture, upright as its EXIF data says, in RGB; its first, where there are several.

    Transparency is left out: the colours count that are under it. 16 bits a sample become 8. DataError when the file is
    missing or damaged, or when its format does not say which numbers are black and white.
    """
    from PIL import Image

    try:
        # Given the name, Pillow maps a plain TIFF by its turned size, and mixes its rows up.
        with open(path, "rb") as file, Image.open(file) as picture:
            picture.load()
            rgb = _in_bytes(picture, path).convert("RGB")
            turn = _turn(picture)
            return rgb if turn is None else rgb.transpose(turn)
    except PictureRangeError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected a picture, got no such file; `aoq data verify` lists all missing") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected a picture that Pillow can decode, got {error}; download it again "
            f"(`aoq data verify` lists all that are damaged)"
        ) from error


def _in_bytes(picture: Any, path: str) -> Any:
    """The picture in a mode of 8 bits; Pillow itself would cut off what is above 255."""
    from PIL import Image

    mode: str = picture.mode
    if mode == "La":
        return picture.convert("LA")  # what is premultiplied has no way to RGB
    if mode != "F" and mode[0] != "I":
        return picture
    white = _white(picture)
    if white is None:
        raise PictureRangeError(
            f"{path}: expected a picture of 8 or 16 bits, got {picture.format} of mode {mode}, whose numbers have no "
            f"defined range; save it as an 8-bit picture, with black as 0 and white as 255"
        )
    values = np.asarray(picture).astype(np.uint32)
    if picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = white - values
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))


def _white(picture: Any) -> int | None:
    """The greatest number of a grey picture of more than 8 bits; None where the format defines none."""
    if picture.mode.startswith("I;16") and picture.format == "TIFF":
        bits: int = picture.tag_v2[_BITS_PER_SAMPLE][0]
        return (1 << bits) - 1
    if picture.mode != "F" and picture.format in _SIXTEEN_BITS:
        return (1 << 16) - 1
    return None


def _turn(picture: Any) -> Any:
    """What turns a loaded picture upright; None where nothing need be done, or the EXIF data cannot be read.

    Pillow's own function writes the EXIF data anew, and fails where a tag is not of its type.
    """
    from PIL import ExifTags, Image

    if picture.format == "TIFF":
        return None  # Pillow turned it as it was loaded
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, struct.error):
        return None
    turn = Image.Transpose
    return {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }.get(orientation)
