"""Every page: a template, filled; one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from aoq_ext._files import write_bytes_atomically
from aoq_ext.report import words
from aoq_ext.report.charts import SERIES
from aoq_ext.report.pictures import embedded

_FOLDER = Path(__file__).parent

environment = Environment(
    loader=FileSystemLoader(_FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
environment.filters |= {name: getattr(words, name) for name in ("duration", "listed", "number", "plural", "signed")}
environment.globals |= {
    "embedded": embedded,
    "series": SERIES,
    "style": Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
}


def write(page: str, path: str | Path) -> Path:
    """Whole or not at all; what UTF-8 cannot say, of a file name in another encoding, is a question mark."""
    return write_bytes_atomically(path, page.encode(errors="replace"))


def render(template: str, **values: object) -> str:
    """The page as text. The same values give the same text, byte for byte."""
    return environment.get_template(template).render(values)
