"""Small images as data URIs."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(image: NDArray[np.uint8], text: str, style: str = "", most: int | None = None) -> str:
    """An <img> of `image` (3, H, W), with `text` as alternative text and tool tip.

    most: the longest side in pixels; an image beyond it is reduced and stored as JPEG, since it is a photograph.
    """
    drawn = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    kind = "png"
    if most is not None and max(drawn.size) > most:
        kind, style = "jpeg", f"{style} photo".strip()
        drawn.thumbnail((most, most), Image.Resampling.LANCZOS)
        drawn.save(buffer, "JPEG", quality=85, optimize=True)
    else:
        drawn.save(buffer, "PNG", optimize=True)
    source = base64.b64encode(buffer.getvalue()).decode("ascii")
    label = escape(text)
    width, height = drawn.size
    return (
        f'<img class="{style}" src="data:image/{kind};base64,{source}" width="{width}" height="{height}" '
        f'alt="{label}" title="{label}">'
    )
