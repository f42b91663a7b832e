"""Picture files that are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aoq_ext._machine import available_cores
from aoq_ext.data.errors import DataError
from aoq_ext.data.image_rows import LazyRows, sampled_rows

if TYPE_CHECKING:
    from hashlib import _Hash

_HASHED_PICTURES = 64
_SIXTEEN_BITS = ("PNG", "PPM")  # formats of which mode I, integers, has numbers to 65535
_NO_BRIGHTNESS = ("I", "F", "LAB")
_MOST_THREADS = 8


class Pictures(LazyRows):
    """N picture files as an array (N, 3, size, size) uint8, of which an index decodes the rows asked for.

    Each is converted to RGB, its shorter side scaled to ``shorter_side`` (bicubic), and its middle cut out: a function
    of the file alone, so that training, mining and evaluation see the same.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        size: int = 224,
        shorter_side: int | None = None,
        threads: int | None = None,
    ) -> None:
        """shorter_side: None: ``size``; threads: None: one a processor, at most 8."""
        shorter_side = size if shorter_side is None else shorter_side
        if size < 1:
            raise ValueError(f"size: expected a positive number of pixels, got {size}")
        if shorter_side < size:
            raise ValueError(f"shorter_side: expected at least size, {size} pixels, got {shorter_side}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads: expected a positive number or None, got {threads}")
        super().__init__((len(paths), 3, size, size), np.dtype(np.uint8))
        self.paths = [str(path) for path in paths]
        self.size = size
        self.shorter_side = shorter_side
        self.threads = threads or min(_MOST_THREADS, available_cores())

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
        picture = open_picture(path)
        scale = self.shorter_side / min(picture.size)
        width, height = (max(self.shorter_side, round(side * scale)) for side in picture.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        if (width, height) != picture.size:
            picture = picture.resize((width, height), resample=_bicubic())
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


class PictureModeError(DataError):
    """A picture whose numbers say nothing of brightness."""


def open_picture(path: str) -> Any:
    """The decoded picture, in RGB of 8 bits; DataError when it is missing, damaged, or of no defined brightness."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return _in_rgb(picture, path)
    except PictureModeError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected a picture, got no such file; `aoq data verify` lists all missing") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected a picture that Pillow can decode, got {error}; download it again "
            f"(`aoq data verify` lists all that are damaged)"
        ) from error


def _in_rgb(picture: Any, path: str) -> Any:
    """Pillow cuts numbers of 16 bits off at 255, and so would show nearly everything white."""
    from PIL import Image

    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in _SIXTEEN_BITS):
        wide = np.asarray(picture).astype(np.uint32)  # 0 to 65535
        picture = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif picture.mode in _NO_BRIGHTNESS:
        raise PictureModeError(
            f"{path}: expected a picture of 8 or 16 bits a channel in grey, RGB, CMYK, YCbCr or a palette, got one in "
            f"Pillow's mode {picture.mode}; convert it to 8-bit RGB with a tool that knows what its numbers mean"
        )
    return picture.convert("RGB")


def _bicubic() -> Any:
    from PIL import Image

    return Image.Resampling.BICUBIC
