"""Small images as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class EmbeddedPicture:
    source: str  # a data URI
    width: int
    height: int
    photo: bool  # reduced from a larger one


def embedded(pixels: NDArray[np.uint8], most: int | None = None) -> EmbeddedPicture:
    """`pixels` (C, H, W), grey or in colours (C = 1 or 3), as what a page can hold.

    most: the longest side in pixels; an image beyond it is reduced and stored as JPEG, since it is a photograph.
    """
    drawn = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    photo = most is not None and max(drawn.size) > most
    if most is not None and photo:
        drawn.thumbnail((most, most), Image.Resampling.LANCZOS)
        drawn.save(buffer, "JPEG", quality=85, optimize=True)
    else:
        drawn.save(buffer, "PNG", optimize=True)
    source = base64.b64encode(buffer.getvalue()).decode("ascii")
    return EmbeddedPicture(f"data:image/{'jpeg' if photo else 'png'};base64,{source}", *drawn.size, photo)
