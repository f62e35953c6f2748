"""Pictures as SVG, without a library: curves over time, and panels of lines on two axes.

A picture has its own background and a second set of colours for readers who prefer a dark screen.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from typing import Final

WIDTH: Final = 900
HEIGHT: Final = 150
LEFT: Final = 90
RIGHT: Final = 120
TOP: Final = 46
GAP: Final = 48
COLOURS: Final = ("#1f77b4", "#d62728", "#2a8a2a", "#7d5bb0")
DARK_COLOURS: Final = ("#6cb6ff", "#ff8b85", "#6fd06f", "#c3a3f0")

PANEL_HEIGHT: Final = 260
PANEL_GAP: Final = 88
LEGEND_WIDTH: Final = 192
PANEL_WIDTH: Final = WIDTH - LEFT - LEGEND_WIDTH
NOTE_CHARACTERS: Final = 120
"""As many small characters fit into the width of a picture."""
NOTE_HEIGHT: Final = 15
TICKS_MAX: Final = 6
LOG_TICKS_MAX: Final = 12
STEPS: Final = (1, 2, 5, 10)
"""The steps between ticks, times a power of ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Lines that share an axis, from zero to the highest."""

    title: str
    unit: str
    lines: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis shows, with its unit. A linear axis begins at zero."""

    label: str
    log: bool = False
    last: float | None = None
    """The end of the axis; None: at the next tick after the highest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points that a line connects."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False
    dots: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A straight line across a panel, at one value of one axis."""

    label: str
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Lines on two axes."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    limits: Sequence[Limit] = ()


def chart(title: str, at_s: Sequence[float], curves: Sequence[Curve]) -> str:
    """Draw the curves one below the other, over the same time."""
    parts = _begun(title, TOP + len(curves) * (HEIGHT + GAP))
    for place, curve in enumerate(curves):
        parts += _drawn(curve, at_s, TOP + place * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>", ""])


def picture(title: str, notes: Sequence[str], panels: Sequence[Panel]) -> str:
    """Draw the panels one below the other, under a title and notes in small print."""
    lines = [line for note in notes for line in textwrap.wrap(note, NOTE_CHARACTERS)]
    top = 36 + NOTE_HEIGHT * len(lines) + 36
    parts = _begun(title, top + len(panels) * (PANEL_HEIGHT + PANEL_GAP) - 24)
    parts += [
        f'<text class="soft" x="{LEFT}" y="{40 + NOTE_HEIGHT * place}" font-size="11">'
        f"{escape(line)}</text>"
        for place, line in enumerate(lines)
    ]
    for place, panel in enumerate(panels):
        parts += _panel(panel, top + place * (PANEL_HEIGHT + PANEL_GAP))
    return "\n".join([*parts, "</svg>", ""])


def _begun(title: str, height: int) -> list[str]:
    return [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
        ),
        f"<style>{_style()}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        f'<text class="ink" x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
    ]


def _style() -> str:
    light = _sheet("#ffffff", "#1a1a1a", "#555555", "#e6e6e6", COLOURS)
    dark = _sheet("#15181d", "#ececec", "#a8adb5", "#2c3138", DARK_COLOURS)
    return (
        "polyline,path{fill:none;stroke-width:1.5}"
        ".frame,.grid{stroke-width:1}.dashed{stroke-dasharray:6 4}"
        f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
    )


def _sheet(paper: str, ink: str, soft: str, grid: str, colours: Sequence[str]) -> str:
    rules = [
        f".paper{{fill:{paper}}}.ink{{fill:{ink}}}.soft{{fill:{soft}}}",
        f".frame,.limit{{stroke:{soft}}}.grid{{stroke:{grid}}}",
    ]
    rules += [
        f".line{place}{{stroke:{colour}}}.fill{place}{{fill:{colour}}}"
        for place, colour in enumerate(colours)
    ]
    return "".join(rules)


def _drawn(curve: Curve, at_s: Sequence[float], top: int) -> list[str]:
    inner = WIDTH - LEFT - RIGHT
    bottom = top + HEIGHT
    last_s = max(at_s, default=0.0) or 1.0
    most = max((value for line in curve.lines.values() for value in line), default=0.0) or 1.0
    unit = f", {curve.unit}" if curve.unit else ""
    parts = [
        f'<text class="ink" x="{LEFT}" y="{top - 6}">{escape(curve.title + unit)}</text>',
        f'<path class="frame" d="M{LEFT},{top}V{bottom}H{LEFT + inner}"/>',
        f'<text class="ink" x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:,.0f}</text>',
        f'<text class="ink" x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        (
            f'<text class="ink" x="{LEFT + inner}" y="{bottom + 14}" text-anchor="end">'
            f"{last_s:,.0f} s</text>"
        ),
    ]
    for place, (label, values) in enumerate(curve.lines.items()):
        colour = place % len(COLOURS)
        points = " ".join(
            f"{LEFT + at / last_s * inner:.1f},{bottom - value / most * HEIGHT:.1f}"
            for at, value in zip(at_s, values, strict=True)
        )
        parts += [
            f'<polyline class="line{colour}" points="{points}"/>',
            (
                f'<text class="fill{colour}" x="{LEFT + inner + 8}" y="{top + 12 + 16 * place}">'
                f"{escape(label)}</text>"
            ),
        ]
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ruler:
    """Where the values of an axis are, from 0 to 1, and its ticks."""

    first: float
    last: float
    log: bool
    ticks: Sequence[float]

    def place(self, value: float) -> float:
        """A value beyond the axis is at its end."""
        value = min(max(value, self.first), self.last)
        if self.log:
            return math.log(value / self.first) / math.log(self.last / self.first)
        return (value - self.first) / (self.last - self.first)


def _ruler(axis: Axis, values: Sequence[float]) -> _Ruler:
    if axis.log:
        return _log_ruler([value for value in values if value > 0] or [1.0])
    most = axis.last or max(values, default=0.0) or 1.0
    step = next(step for step in _steps(most / TICKS_MAX / 10) if most / step <= TICKS_MAX)
    last = axis.last or math.ceil(most / step - 1e-9) * step
    ticks = [number * step for number in range(math.floor(last / step + 1e-9) + 1)]
    return _Ruler(first=0.0, last=last, log=False, ticks=ticks)


def _log_ruler(values: Sequence[float]) -> _Ruler:
    """End at a tick on both sides."""
    least, most = min(values), max(values)
    ticks = list(_steps(10 ** math.floor(math.log10(least))))
    first = max(tick for tick in ticks if tick <= least * (1 + 1e-9))
    last = min(tick for tick in ticks if tick >= most * (1 - 1e-9) and tick > first)
    shown = [tick for tick in ticks if first <= tick <= last]
    if len(shown) > LOG_TICKS_MAX:
        shown = _powers(shown)
    return _Ruler(first=first, last=last, log=True, ticks=shown)


def _powers(ticks: Sequence[float]) -> list[float]:
    return [tick for tick in ticks if math.log10(tick).is_integer()]


def _overlap(ruler: _Ruler, inner: float) -> bool:
    """Whether the labels of the ticks touch each other on a horizontal axis."""
    return any(
        (ruler.place(right) - ruler.place(left)) * inner
        < (_width(_number(left)) + _width(_number(right))) / 2 + 8
        for left, right in pairwise(ruler.ticks)
    )


def _width(text: str) -> float:
    """Estimate the width of a text, rather too large than too small."""
    return 7.5 * len(text)


def _steps(least: float) -> Iterator[float]:
    """Yield 1, 2, 5, 10, 20, ... from the power of ten at or below ``least``, for 15 decades."""
    decade = math.floor(math.log10(least))
    for power in range(decade, decade + 15):
        for digit in STEPS[:-1]:
            yield digit * 10**power if power >= 0 else digit / 10**-power


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Where a panel's values are in the picture."""

    top: int
    x: _Ruler
    y: _Ruler
    inner: int = PANEL_WIDTH

    @property
    def bottom(self) -> int:
        return self.top + PANEL_HEIGHT

    def across(self, value: float) -> float:
        return LEFT + self.x.place(value) * self.inner

    def up(self, value: float) -> float:
        return self.bottom - self.y.place(value) * PANEL_HEIGHT


def _panel(panel: Panel, top: int) -> list[str]:
    points = [point for line in panel.lines for point in line.points]
    xs = [x for x, _ in points] + [each.x for each in panel.limits if each.x is not None]
    ys = [y for _, y in points] + [each.y for each in panel.limits if each.y is not None]
    x = _ruler(panel.x, xs)
    if x.log and _overlap(x, PANEL_WIDTH):
        x = replace(x, ticks=_powers(x.ticks))
    frame = _Frame(top=top, x=x, y=_ruler(panel.y, ys))
    bottom, right = frame.bottom, LEFT + frame.inner
    parts = [
        (
            f'<text class="ink" x="{LEFT}" y="{top - 14}" font-weight="bold">'
            f"{escape(panel.title)}</text>"
        ),
        (
            f'<text class="ink" x="{LEFT + frame.inner / 2:.0f}" y="{bottom + 38}"'
            f' text-anchor="middle">{escape(_label(panel.x))}</text>'
        ),
        (
            f'<text class="ink" transform="translate(20,{top + PANEL_HEIGHT // 2}) rotate(-90)"'
            f' text-anchor="middle">{escape(_label(panel.y))}</text>'
        ),
    ]
    for tick in frame.x.ticks:
        at = frame.across(tick)
        parts += [
            f'<path class="grid" d="M{at:.1f},{top}V{bottom}"/>',
            (
                f'<text class="ink" x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">'
                f"{_number(tick)}</text>"
            ),
        ]
    for tick in frame.y.ticks:
        at = frame.up(tick)
        parts += [
            f'<path class="grid" d="M{LEFT},{at:.1f}H{right}"/>',
            (
                f'<text class="ink" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">'
                f"{_number(tick)}</text>"
            ),
        ]
    parts.append(f'<path class="frame" d="M{LEFT},{top}V{bottom}H{right}"/>')
    parts += _limits(panel, frame)
    for place, line in enumerate(panel.lines):
        parts += _line(line, frame)
        parts += _legend(line, right + 16, top + 8 + 20 * place)
    return parts


def _label(axis: Axis) -> str:
    return f"{axis.label}, log scale" if axis.log else axis.label


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 and float(value).is_integer() else f"{value:g}"


def _limits(panel: Panel, frame: _Frame) -> list[str]:
    """Draw each limit; the labels of vertical ones are at different heights, so none overlap."""
    parts = []
    height = frame.bottom - 10
    for limit in panel.limits:
        if limit.x is not None:
            at = frame.across(limit.x)
            parts.append(f'<path class="limit dashed" d="M{at:.1f},{frame.top}V{frame.bottom}"/>')
            left = at + 12 + _width(limit.label) > LEFT + frame.inner
            parts.append(
                f'<text class="ink" x="{at - 6 if left else at + 6:.1f}" y="{height}"'
                f' text-anchor="{"end" if left else "start"}">{escape(limit.label)}</text>'
            )
            height -= 18
        if limit.y is not None:
            at = frame.up(limit.y)
            parts += [
                f'<path class="limit dashed" d="M{LEFT},{at:.1f}H{LEFT + frame.inner}"/>',
                f'<text class="soft" x="{LEFT + 6}" y="{at - 5:.1f}">{escape(limit.label)}</text>',
            ]
    return parts


def _line(line: Line, frame: _Frame) -> list[str]:
    at = [(frame.across(x), frame.up(y)) for x, y in line.points]
    dashed = " dashed" if line.dashed else ""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    parts = [f'<polyline class="line{line.colour}{dashed}" points="{points}"/>']
    if line.dots:
        parts += [
            f'<circle class="fill{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in at
        ]
    return parts


def _legend(line: Line, left: int, middle: int) -> list[str]:
    dashed = " dashed" if line.dashed else ""
    return [
        f'<path class="line{line.colour}{dashed}" d="M{left},{middle}h26"/>',
        f'<text class="ink" x="{left + 32}" y="{middle + 4}">{escape(line.label)}</text>',
    ]
