"""Tables that compare the directions, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Plain text in, escaped; `rows` hold a name and one cell a column. A number keeps its percent sign on its line."""
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_cell, cells))}</tr>' for name, cells in rows)
    return (
        f'<div class="card scroll"><table class="comparison"><caption>{escape(title)}</caption>'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    return f"<td>{escape(text).replace(' %', '&nbsp;%')}</td>"
