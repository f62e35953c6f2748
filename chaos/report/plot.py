"""The timeline of a run as a picture: faults, nodes, every call, and throughput."""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from chaos.context import Happening
from chaos.history.calls import Answer, Call
from chaos.report.figures import kind_of, rates
from chaos.run.run import Played
from chaos.run.watch import Sight

WIDTH = 1_160
LEFT, RIGHT = 92, 16
ROW, GAP = 20, 26
SCATTER_HEIGHT = 64
RATE_HEIGHT = 70
FAST_S, SLOW_S = 0.0003, 10.0
POINTS_MAX = 30_000
"""More calls than this are thinned out, and the report says so."""
KINDS = ("submit", "claim", "report", "heartbeat", "read", "operator")
TICKS_MAX = 14
HAIRLINE = 0.2
LETTER = 5.9
"""How wide a letter of the plot is, about."""


class Scale:
    """Maps seconds of the run to positions in the picture."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self.start_s = start_s
        self.end_s = max(end_s, start_s + 1)

    def x(self, at_s: float) -> float:
        """The position of an instant."""
        share = (at_s - self.start_s) / (self.end_s - self.start_s)
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[float]:
        """Round numbers of seconds, about a dozen."""
        length = self.end_s - self.start_s
        steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_200, 3_600)
        step = next((one for one in steps if length / one <= TICKS_MAX), 7_200)
        return [float(step * number) for number in range(int(length / step) + 1)]


def timeline(played: Played) -> str:
    """Draw the timeline as one SVG."""
    ledger = played.ledger
    ends = [call.ended_s or call.began_s for call in ledger.calls]
    scale = Scale(ledger.started_s, max(ends, default=ledger.started_s))
    parts: list[str] = []
    rows = _stacked(played.happenings, scale)
    top = 8
    parts += _title(top + 14, "faults")
    for happening, row in rows:
        parts.append(_happening(happening, scale, top + row * ROW))
    top += ROW * (1 + max((row for _, row in rows), default=0)) + GAP // 2
    for name, sights in played.sights.items():
        parts += _title(top + 14, name)
        parts += _node(sights, scale, top)
        top += ROW
    top += GAP // 2
    by_kind: dict[str, list[Call]] = defaultdict(list)
    for call in ledger.calls:
        by_kind[kind_of(call)].append(call)
    for kind in KINDS:
        if by_kind[kind]:
            parts += _scatter(by_kind[kind], kind, scale, top, len(ledger.calls))
            top += SCATTER_HEIGHT + 10
    top += 4
    for kind in ("submit", "report"):
        if by_kind[kind]:
            parts += _rate(by_kind[kind], kind, scale, top)
            top += RATE_HEIGHT + 12
    height = top + 24
    bands = [_band(one, scale, height - 26) for one in played.happenings if one.name != "finish"]
    grid = [_tick(at_s, scale, height - 26) for at_s in scale.ticks()]
    return (
        f'<svg class="timeline" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-label="timeline of the run">{"".join([*bands, *grid, *parts])}</svg>'
    )


def _title(y: float, text: str) -> list[str]:
    return [f'<text class="lane" x="{LEFT - 10}" y="{y:.0f}">{html.escape(text)}</text>']


def _tick(at_s: float, scale: Scale, bottom: float) -> str:
    x = scale.x(scale.start_s + at_s)
    return (
        f'<line class="grid" x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{bottom:.0f}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 16:.0f}">{at_s:g} s</text>'
    )


def _band(happening: Happening, scale: Scale, bottom: float) -> str:
    x, width = _extent(happening, scale)
    return f'<rect class="band" x="{x:.1f}" y="4" width="{width:.1f}" height="{bottom - 4:.0f}"/>'


def _extent(happening: Happening, scale: Scale) -> tuple[float, float]:
    x = scale.x(happening.began_s)
    ended_s = scale.end_s if happening.ended_s is None else happening.ended_s
    return x, max(3.0, scale.x(ended_s) - x)


def _label(happening: Happening) -> str:
    return " ".join((happening.name, *happening.nodes))


def _stacked(happenings: Iterable[Happening], scale: Scale) -> list[tuple[Happening, int]]:
    """Give each happening a row, so that neither bars nor texts overlap."""
    taken: list[float] = []
    placed = []
    for happening in sorted(happenings, key=lambda one: one.began_s):
        x, width = _extent(happening, scale)
        text = LETTER * len(_label(happening)) + 12
        left = min(x, WIDTH - RIGHT - text)
        row = next((n for n, until in enumerate(taken) if until < left), len(taken))
        if row == len(taken):
            taken.append(0.0)
        taken[row] = max(x + width, left + text)
        placed.append((happening, row))
    return placed


def _happening(happening: Happening, scale: Scale, y: float) -> str:
    x, width = _extent(happening, scale)
    label = _label(happening)
    text_x = min(x + 4, WIDTH - RIGHT - LETTER * len(label))
    style = "quiet" if happening.name == "finish" else "fault"
    return (
        f'<g><rect class="{style}" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="{ROW - 4}"'
        f' rx="3"/><text class="what" x="{text_x:.1f}" y="{y + 12:.0f}">{html.escape(label)}</text>'
        f"<title>{html.escape(happening.what)}</title></g>"
    )


def _node(sights: Sequence[Sight], scale: Scale, y: float) -> list[str]:
    """Draw a bar for each span in which a node's role, term and reach stayed the same."""
    drawn = []
    for sight, following in zip(sights, [*sights[1:], None], strict=True):
        x = scale.x(sight.at_s)
        width = (scale.x(following.at_s) if following else WIDTH - RIGHT) - x
        if width < HAIRLINE:
            continue
        style = {
            "LEADER": "leader",
            "FOLLOWER": "follower",
            "down": "down",
            "paused": "paused",
        }.get(sight.state, "lost" if sight.state.startswith("no answer") else "other")
        title = f"{sight.state}, term {sight.term}" if sight.term else sight.state
        drawn.append(
            f'<g><rect class="{style}" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}"'
            f' height="{ROW - 4}"/><title>{html.escape(title)}</title></g>'
        )
        term = f"term {sight.term}"
        if style == "leader" and width > LETTER * len(term) + 6:
            drawn.append(f'<text class="term" x="{x + 4:.1f}" y="{y + 12:.0f}">{term}</text>')
    return drawn


def _scatter(
    calls: Sequence[Call], kind: str, scale: Scale, top: float, total: int
) -> Iterator[str]:
    """Draw each call as a dot: when it began, how long it took, and its answer."""
    bottom = top + SCATTER_HEIGHT
    yield from _title(top + 14, kind)
    for seconds, text in ((0.001, "1 ms"), (0.1, "100 ms")):
        y = _height(seconds, top, bottom)
        yield f'<line class="rule" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        yield f'<text class="rule" x="{LEFT - 10}" y="{y + 3:.1f}">{text}</text>'
    dots: dict[str, list[str]] = defaultdict(list)
    every = max(1, math.ceil(total / POINTS_MAX))
    for number, call in enumerate(calls):
        if number % every and call.answer is not Answer.UNKNOWN:
            continue
        took_s = SLOW_S if call.ended_s is None else call.ended_s - call.began_s
        y = top + 3 if call.ended_s is None else _height(took_s, top, bottom)
        dots[call.answer.value].append(f"M{scale.x(call.began_s):.1f} {y:.1f}h0")
    for answer in ("applied", "refused", "unknown"):
        if dots[answer]:
            yield f'<path class="dot {answer}" d="{"".join(dots[answer])}"/>'


def _height(seconds: float, top: float, bottom: float) -> float:
    """The height on a logarithmic scale, slow calls at the top."""
    share = math.log(max(seconds, FAST_S) / FAST_S) / math.log(SLOW_S / FAST_S)
    return bottom - 4 - min(1.0, share) * (bottom - top - 12)


def _rate(calls: Sequence[Call], kind: str, scale: Scale, top: float) -> Iterator[str]:
    """Answered calls a second, stacked by their answers."""
    bottom = top + RATE_HEIGHT
    bin_s = max(0.2, (scale.end_s - scale.start_s) / 240)
    layers = {
        answer: rates(
            [call for call in calls if call.answer is answer], scale.start_s, scale.end_s, bin_s
        )
        for answer in (Answer.APPLIED, Answer.REFUSED)
    }
    most = max((sum(at) for at in zip(*layers.values(), strict=True)), default=0.0) or 1.0
    yield from _title(top + 14, f"{kind}s/s")
    yield f'<text class="rule" x="{LEFT - 10}" y="{top + 28:.0f}">max {most:.0f}</text>'
    yield f'<line class="rule" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>'
    base = [0.0] * len(layers[Answer.APPLIED])
    for answer, values in layers.items():
        steps = []
        for number, value in enumerate(values):
            if value:
                x = scale.x(scale.start_s + number * bin_s)
                width = scale.x(scale.start_s + (number + 1) * bin_s) - x
                low = bottom - base[number] / most * RATE_HEIGHT
                high = low - value / most * RATE_HEIGHT
                steps.append(
                    f"M{x:.1f} {low:.1f}V{high:.1f}h{max(0.6, width - 0.6):.1f}V{low:.1f}z"
                )
                base[number] += value
        yield f'<path class="bar {answer.value}" d="{"".join(steps)}"/>'
