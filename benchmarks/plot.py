"""Curves over time as an SVG picture, without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 900
HEIGHT: Final = 150
LEFT: Final = 90
RIGHT: Final = 120
TOP: Final = 46
GAP: Final = 48
COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Lines that share an axis, from zero to the highest."""

    title: str
    unit: str
    lines: Mapping[str, Sequence[float]]


def chart(title: str, at_s: Sequence[float], curves: Sequence[Curve]) -> str:
    """Draw the curves one below the other, over the same time."""
    height = TOP + len(curves) * (HEIGHT + GAP)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            ' font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
    ]
    for place, curve in enumerate(curves):
        parts += _drawn(curve, at_s, TOP + place * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>", ""])


def _drawn(curve: Curve, at_s: Sequence[float], top: int) -> list[str]:
    inner = WIDTH - LEFT - RIGHT
    bottom = top + HEIGHT
    last_s = max(at_s, default=0.0) or 1.0
    most = max((value for line in curve.lines.values() for value in line), default=0.0) or 1.0
    unit = f", {curve.unit}" if curve.unit else ""
    parts = [
        f'<text x="{LEFT}" y="{top - 6}">{escape(curve.title + unit)}</text>',
        f'<path d="M{LEFT},{top}V{bottom}H{LEFT + inner}" fill="none" stroke="#888"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:,.0f}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT + inner}" y="{bottom + 14}" text-anchor="end">{last_s:,.0f} s</text>',
    ]
    for place, (label, values) in enumerate(curve.lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        points = " ".join(
            f"{LEFT + at / last_s * inner:.1f},{bottom - value / most * HEIGHT:.1f}"
            for at, value in zip(at_s, values, strict=True)
        )
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            (
                f'<text x="{LEFT + inner + 8}" y="{top + 12 + 16 * place}" fill="{colour}">'
                f"{escape(label)}</text>"
            ),
        ]
    return parts
