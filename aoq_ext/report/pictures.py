"""Small images as PNG data URIs."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(image: NDArray[np.uint8], text: str, style: str = "") -> str:
    """An <img> of `image` (3, H, W), with `text` as alternative text and tool tip."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "PNG", optimize=True)
    source = base64.b64encode(buffer.getvalue()).decode("ascii")
    label = escape(text)
    height, width = image.shape[1:]
    return (
        f'<img class="{style}" src="data:image/png;base64,{source}" width="{width}" height="{height}" '
        f'alt="{label}" title="{label}">'
    )
