"""A chart as inline SVG. Its colours are variables of the style sheet, so one drawing serves light, dark and print."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 48
BINS = 48
_MOST_LOG_TICKS = 9


@dataclass(frozen=True)
class Series:
    """How what is drawn under one name looks, in a chart and in its legend."""

    colour: str  # a variable of style.css
    dashes: tuple[float, ...] = ()  # lengths of dashes and gaps; none for a whole line


SERIES = {
    "first": Series("first", (6, 4)),
    "second": Series("second"),
    "control": Series("online", (2, 2.5)),
    "positive": Series("positive"),
    "online": Series("online", (6, 3)),
    "offline": Series("offline", (2, 2.5)),
    "last": Series("first", (10, 3, 2, 3)),
}

# The plotting library wants colours; these stand in for the variables until the drawing is done.
_COLOURS = ("ink", "soft", "line", "shade", "card", "first", "second", "positive", "online", "offline")
_STAND_INS = {name: f"#{number:06x}" for number, name in enumerate(_COLOURS, 1)}
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _STAND_INS["soft"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": _STAND_INS["soft"],
    "axes.titlecolor": _STAND_INS["ink"],
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    **{f"axes.spines.{side}": False for side in ("left", "right", "top")},
    "font.size": 13,
    "grid.color": _STAND_INS["line"],
    "lines.scale_dashes": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "xtick.color": _STAND_INS["soft"],
    "ytick.color": _STAND_INS["soft"],
    "ytick.major.pad": 7,
    "ytick.major.size": 0,
}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class Axis:
    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def shows(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)


def linear_axis(label: str, low: float, high: float, count: int = 5) -> Axis:
    """Bounds widened to round ticks of 1, 2 or 5 times a power of ten, about `count` of them."""
    if high <= low:
        room = 0.5 * max(1.0, abs(low))
        low, high = low - room, high + room
    ticks = tuple(float(tick) for tick in MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high))
    return Axis(label, ticks[0], ticks[-1], ticks)


def log_axis(label: str, low: float, high: float) -> Axis:
    """Ticks at 1, 2 and 5 times the powers of ten, or at those alone; a linear axis where too few of them show."""
    bottom, top = low / 1.15, high * 1.15
    exponents = range(math.floor(math.log10(bottom)), math.ceil(math.log10(top)) + 1)
    ticks = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    shown = tuple(tick for tick in ticks if bottom <= tick <= top)
    if len(shown) > _MOST_LOG_TICKS:
        shown = tuple(10.0**exponent for exponent in exponents if bottom <= 10.0**exponent <= top)
    if len(shown) < 3:
        return linear_axis(label, 0.0, high)
    return Axis(f"{label} (log scale)", bottom, top, shown, log=True)


def tick_text(value: float) -> str:
    """At most four significant digits, thousands separated, with a true minus sign."""
    value = round(value, 10) + 0.0
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def axis_text(value: float) -> str:
    """`tick_text`, with whole thousands and millions shortened to fit beside an axis: 20k, 3M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit and float(f"{value / unit:.4g}") * unit == value:
            return f"{tick_text(value / unit)}{letter}"
    return tick_text(value)


def shares(values: NDArray[np.floating[Any]], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """(bins,) percent of `values` in each bin."""
    counts, _ = np.histogram(values, edges)
    return 100.0 * counts / max(1, len(values))


class Chart:
    """Axes to draw into; `series` arguments are names of SERIES."""

    def __init__(self, title: str, description: str, x: Axis, y: Axis) -> None:
        self.title, self.description = title, description
        self.x, self.y = x, y
        self._marks: list[Callable[[Axes], object]] = []  # drawn when the library's settings are ours
        self._tips: dict[str, list[str]] = {}

    def shade(self, start: float, end: float, label: str, label_at_top: bool) -> None:
        self._marks.append(lambda axes: axes.axvspan(start, end, color=_STAND_INS["shade"], lw=0, zorder=0))
        place, rise, align = (1, -5, "top") if label_at_top else (0, 5, "bottom")
        self._note("soft", label, (start, place), (5, rise), xycoords=("data", "axes fraction"), ha="left", va=align)

    def line(self, xs: Sequence[float], ys: Sequence[float], series: str) -> None:
        """A line through the points that the axis can show, each with its value as a tool tip."""
        points = np.array([(x, y) for x, y in zip(xs, ys, strict=True) if self.y.shows(y)]).reshape(-1, 2)
        name = f"points-{len(self._tips)}"
        self._tips[name] = [f"{self.x.label} {tick_text(x)}: {tick_text(y)}" for x, y in points.tolist()]
        inside, edge = (_STAND_INS[colour] for colour in (SERIES[series].colour, "card"))
        if series == "first":
            inside, edge = edge, inside
        look = {**_stroke(series, 2.2), "gid": name, "marker": "o", "ms": 5.2, "mfc": inside, "mec": edge, "mew": 1.2}
        self._marks.append(lambda axes: axes.plot(*points.T, **look))

    def band(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], series: str) -> None:
        """The area between two curves, such as the middle 80 % of the values."""
        self._marks.append(lambda axes: axes.fill_between(xs, lows, highs, fc=_wash(series), lw=0))

    def ring(self, x: float, y: float, series: str, radius: float) -> None:
        """Points at one value, such as the best epoch."""
        colour = _STAND_INS[SERIES[series].colour]
        self._marks.append(lambda axes: axes.plot(x, y, "o", ms=2 * radius, mfc="none", mec=colour, mew=1.6))

    def outline(self, edges: NDArray[np.float64], heights: NDArray[np.float64], series: str) -> None:
        """A histogram as one filled step outline: `edges` holds one value more than `heights`."""
        look = {**_stroke(series, 1.8), "ec": _STAND_INS[SERIES[series].colour], "fc": _wash(series)}
        del look["color"]
        self._marks.append(lambda axes: axes.stairs(heights, edges, baseline=self.y.low, fill=True, **look))

    def rule(self, x: float, series: str) -> None:
        """A vertical line over the full height, such as a median."""
        self._marks.append(lambda axes: axes.axvline(x, alpha=0.8, **_stroke(series, 1.2)))

    def level(self, y: float, label: str, series: str) -> None:
        """A horizontal line over the full width, such as a value to compare with; `label` stands at its end."""
        self._marks.append(lambda axes: axes.axhline(y, alpha=0.8, **_stroke(series, 1.2)))
        self._note("ink", label, (1, y), (-4, 5), xycoords=("axes fraction", "data"), ha="right", va="bottom")

    def _note(self, colour: str, label: str, place: tuple[float, float], away: tuple[int, int], **where: Any) -> None:
        look = {"color": _STAND_INS[colour], "textcoords": "offset points", **where}
        self._marks.append(lambda axes: axes.annotate(label, place, away, **look))

    def render(self) -> Markup:
        buffer = io.StringIO()
        with matplotlib.style.context(["default", _STYLE]):
            figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
            inner = LEFT / WIDTH, BOTTOM / HEIGHT, (WIDTH - LEFT - RIGHT) / WIDTH, (HEIGHT - TOP - BOTTOM) / HEIGHT
            axes = figure.add_axes(inner)
            axes.set_title(self.title)
            for name, axis in (("x", self.x), ("y", self.y)):
                axes.set(**{f"{name}scale": "log" if axis.log else "linear", f"{name}label": axis.label})
                axes.set(**{f"{name}ticks": axis.ticks, f"{name}ticklabels": [axis_text(tick) for tick in axis.ticks]})
            axes.minorticks_off()
            axes.yaxis.set_label_coords(18 / WIDTH, (HEIGHT - TOP + BOTTOM) / 2 / HEIGHT, figure.transFigure)
            for mark in self._marks:
                mark(axes)
            axes.set(xlim=(self.x.low, self.x.high), ylim=(self.y.low, self.y.high))
            figure.savefig(buffer, format="svg")
        return Markup(_inline(buffer.getvalue(), self.description, self._tips))


def _stroke(series: str, width: float) -> dict[str, Any]:
    look = SERIES[series]
    return {"color": _STAND_INS[look.colour], "lw": width, "ls": (0, look.dashes) if look.dashes else "-"}


def _wash(series: str) -> tuple[str, float]:
    return _STAND_INS[SERIES[series].colour], 0.16


def _inline(drawn: str, description: str, tips: dict[str, list[str]]) -> str:
    """What the plotting library drew as a flat list of shapes and texts: no names that two charts of a page share."""
    figure = ElementTree.fromstring(drawn)
    for group in figure.iter(f"{_SVG}g"):
        for use, tip in zip(group.iter(f"{_SVG}use"), tips.get(group.get("id", ""), ())):
            ElementTree.SubElement(use, "title").text = tip
    shapes = {f"#{shape.get('id')}": shape for defs in figure.iter(f"{_SVG}defs") for shape in defs}
    frame = {"class": "panel", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": description}
    root = ElementTree.Element("svg", frame)
    for element in figure.iter():
        kind = element.tag.removeprefix(_SVG)
        if kind == "use":
            shape = shapes[element.attrib[_LINK]]
            style = f"{shape.get('style', '')}; {element.get('style', '')}"
            place = f"translate({element.get('x', '0')} {element.get('y', '0')})"
            path = {"transform": place, "d": shape.attrib["d"], "style": style}
            ElementTree.SubElement(root, "path", _simplified(path)).extend(element)
        elif kind in ("path", "text") and "id" not in element.attrib and element.get("style") != "fill: none":
            ElementTree.SubElement(root, kind, _simplified(element.attrib)).text = element.text
    return ElementTree.tostring(root, "unicode", short_empty_elements=False)


def _simplified(attributes: dict[str, str]) -> dict[str, str]:
    """Colours of the style sheet, its fonts, and no more digits and space than can be seen."""
    names = {stand_in: f"var(--{name})" for name, stand_in in _STAND_INS.items()}
    given = dict(rule.split(": ", 1) for rule in attributes.get("style", "").split("; ") if rule)
    rules = {name: names.get(value, value) for name, value in given.items() if not name.startswith("font")}
    kept = {"style": ";".join(f"{name}:{value}" for name, value in rules.items())}
    if given.get("font-weight") == "700":
        kept["class"] = "title"
    for name in ("d", "x", "y", "transform"):
        if name in attributes and not attributes[name].startswith("rotate(-0 "):
            rounded = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}", attributes[name])
            kept[name] = " ".join(rounded.split())
    return kept
