"""A chart panel as inline SVG; its colours are CSS classes, so one drawing serves light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 48
_MOST_LOG_TICKS = 9


@dataclass(frozen=True)
class Axis:
    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def shows(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def fraction(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear_axis(label: str, low: float, high: float, count: int = 5) -> Axis:
    """Bounds widened to round ticks of 1, 2 or 5 times a power of ten, about `count` of them."""
    if high <= low:
        room = 0.5 * max(1.0, abs(low))
        low, high = low - room, high + room
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Axis(label, ticks[0], ticks[-1], ticks)


def epoch_axis(count: int) -> Axis:
    """Epochs 1 to `count` with half an epoch of room on both sides."""
    step = max(1, math.ceil(count / 8))
    return Axis("epoch", 0.5, count + 0.5, tuple(float(epoch) for epoch in range(step, count + 1, step)))


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


class Panel:
    """Axes to draw into; `style` arguments are the CSS classes of the series (see style.py)."""

    def __init__(self, title: str, description: str, x: Axis, y: Axis) -> None:
        self.title, self.description = title, description
        self.x, self.y = x, y
        self._background: list[str] = []
        self._marks: list[str] = []

    def column(self, x: float) -> float:
        return LEFT + self.x.fraction(x) * (WIDTH - LEFT - RIGHT)

    def row(self, y: float) -> float:
        return HEIGHT - BOTTOM - self.y.fraction(y) * (HEIGHT - TOP - BOTTOM)

    def shade(self, start: float, end: float, label: str, label_at_top: bool) -> None:
        left, width = self.column(start), self.column(end) - self.column(start)
        bottom = HEIGHT - BOTTOM
        baseline = TOP + 16 if label_at_top else bottom - 7
        self._background.append(
            f'<rect class="shade" x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{bottom - TOP}"/>'
            f'<text class="note" x="{left + 5:.1f}" y="{baseline}">{escape(label)}</text>'
        )

    def line(self, xs: Sequence[float], ys: Sequence[float], style: str) -> None:
        """A polyline through the points that the axis can show, each with its value as a tool tip."""
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if self.y.shows(y)]
        path = " ".join(f"{self.column(x):.1f},{self.row(y):.1f}" for x, y in points)
        self._marks.append(f'<polyline class="line {style}" points="{path}"/>')
        for x, y in points:
            self._marks.append(
                f'<circle class="dot {style}" cx="{self.column(x):.1f}" cy="{self.row(y):.1f}" r="2.6">'
                f"<title>{escape(self.x.label)} {tick_text(x)}: {tick_text(y)}</title></circle>"
            )

    def band(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], style: str) -> None:
        """The area between two curves, such as the middle 80 % of the values."""
        there = [f"{self.column(x):.1f},{self.row(y):.1f}" for x, y in zip(xs, highs, strict=True)]
        back = [f"{self.column(x):.1f},{self.row(y):.1f}" for x, y in zip(xs, lows, strict=True)]
        self._marks.append(f'<polygon class="area {style}" points="{" ".join(there + back[::-1])}"/>')

    def ring(self, x: float, y: float, style: str, radius: float) -> None:
        """Points at one value, such as the best epoch."""
        cx, cy = self.column(x), self.row(y)
        self._marks.append(f'<circle class="ring {style}" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius}"/>')

    def outline(self, edges: Sequence[float], heights: Sequence[float], style: str) -> None:
        """A histogram as one filled step outline: `edges` holds one value more than `heights`."""
        floor = self.row(self.y.low)
        steps = [f"M{self.column(edges[0]):.1f},{floor:.1f}"]
        for right, height in zip(edges[1:], heights, strict=True):
            steps.append(f"V{self.row(height):.1f}H{self.column(right):.1f}")
        steps.append(f"V{floor:.1f}")
        self._marks.append(f'<path class="area {style}" d="{"".join(steps)}"/>')

    def rule(self, x: float, style: str) -> None:
        """A vertical line over the full height, such as a median."""
        self._marks.append(
            f'<line class="rule {style}" x1="{self.column(x):.1f}" x2="{self.column(x):.1f}" '
            f'y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )

    def level(self, y: float, label: str, style: str) -> None:
        """A horizontal line over the full width, such as a value to compare with; `label` stands at its end."""
        self._marks.append(
            f'<line class="rule {style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
            f'y1="{self.row(y):.1f}" y2="{self.row(y):.1f}"/>'
            f'<text class="note" x="{WIDTH - RIGHT - 4}" y="{self.row(y) - 5:.1f}" text-anchor="end">'
            f"{escape(label)}</text>"
        )

    def render(self) -> str:
        return (
            f'<svg class="panel" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.description)}">'
            f'<text class="title" x="{LEFT}" y="18">{escape(self.title)}</text>'
            f"{''.join(self._background)}{self._grid()}{''.join(self._marks)}</svg>"
        )

    def _grid(self) -> str:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for tick in self.y.ticks:
            row = self.row(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{row:.1f}" y2="{row:.1f}"/>')
            parts.append(
                f'<text class="tick" x="{LEFT - 7}" y="{row + 4:.1f}" text-anchor="end">{axis_text(tick)}</text>'
            )
        for tick in self.x.ticks:
            column = self.column(tick)
            parts.append(f'<line class="axis" x1="{column:.1f}" x2="{column:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(
                f'<text class="tick" x="{column:.1f}" y="{bottom + 17}" text-anchor="middle">{axis_text(tick)}</text>'
            )
        middle_column, middle_row = (LEFT + right) / 2, (TOP + bottom) / 2
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        parts.append(
            f'<text class="label" x="{middle_column}" y="{HEIGHT - 8}" text-anchor="middle">'
            f"{escape(self.x.label)}</text>"
            f'<text class="label" x="14" y="{middle_row}" text-anchor="middle" '
            f'transform="rotate(-90 14 {middle_row})">{escape(self.y.label)}</text>'
        )
        return "".join(parts)
