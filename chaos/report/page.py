"""The page: what was run, the verdict, the timeline, the figures around each fault."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from chaos.history.calls import Answer, ReportCall, ReportStatus, SubmitCall
from chaos.history.record import Ledger
from chaos.report.figures import Around, Span, around, kind_of
from chaos.report.plot import POINTS_MAX, timeline
from chaos.report.style import CSS
from chaos.run.result import Result, Verdict
from chaos.run.run import Played

VIOLATIONS_SHOWN = 20
EXACT_BELOW_S = 0.01
HEADLINES = {
    Verdict.KEPT: "Every promise was kept",
    Verdict.BROKEN: "A promise was broken",
    Verdict.NOT_RUN: "Not run",
    Verdict.ERROR: "The suite itself failed",
}
PROMISES = (
    ("I1", "no acknowledged submit is lost"),
    ("I2", "one request id, one creation"),
    ("I3", "one holder at a time, tokens rise, no lease ends early"),
    ("I4", "at most one accepted outcome a task"),
    ("I5", "what a worker was told is what is recorded"),
    ("I6", "each task's history is linearizable, and the sums add up"),
    ("I7", "every node holds the same state"),
    ("I8", "once faults stop, every task finishes"),
    ("available", "the cluster is well again in time after each fault"),
    ("sound", "no broker logs an error of its own"),
)
LEGEND = (
    ("leader", "leader"),
    ("follower", "follower"),
    ("other", "other role"),
    ("down", "down"),
    ("paused", "paused"),
    ("lost", "no answer"),
    ("applied", "answered"),
    ("refused", "refused"),
    ("unknown", "never answered"),
)


def write(path: Path, played: Played, result: Result) -> None:
    """Write the report of a run."""
    path.write_text(page(played, result))


def page(played: Played, result: Result) -> str:
    """Build the page."""
    scenario = played.plan.scenario
    title = f"{scenario.name}, seed {result.seed}: {result.verdict}"
    sections = [
        _head(played, result),
        _tiles(played, result),
        _verdict(result),
        _section("Timeline", _legend() + timeline(played) + _thinned(played.ledger)),
        _section("Around each fault", _faults(played)),
        _section("Calls", _calls(played.ledger)),
    ]
    body = "".join(sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _head(played: Played, result: Result) -> str:
    scenario = played.plan.scenario
    faults = ", ".join(result.faults) or "none"
    planted = f" with a bug planted: {result.mutant}" if result.mutant else ""
    about = f"{scenario.nodes} nodes, {result.transport}; faults: {faults}; seed {result.seed}"
    return (
        f'<header><p class="kicker">chaos run, {html.escape(result.started_at)}</p>'
        f"<h1>{html.escape(scenario.name)}"
        f' <span class="verdict {_class(result.verdict)}">{HEADLINES[result.verdict]}</span></h1>'
        f"<p>{html.escape(scenario.summary)}. {html.escape(about + planted)}.</p>"
        f'<p class="again">Again: <code>{html.escape(result.command)}</code></p></header>'
    )


def _class(verdict: Verdict) -> str:
    return "good" if verdict is Verdict.KEPT else "bad"


def _tiles(played: Played, result: Result) -> str:
    reports = [call for call in played.ledger.calls if isinstance(call, ReportCall)]
    stale = sum(call.status == ReportStatus.STATUS_LEASE_LOST for call in reports)
    acknowledged = sum(
        isinstance(call, SubmitCall) and call.answer is Answer.APPLIED
        for call in played.ledger.calls
    )
    tiles = [
        ("took", f"{result.took_s:.0f} s"),
        ("faults injected", str(sum(result.injected.values()))),
        ("calls", f"{result.calls:,}"),
        ("never answered", f"{result.unanswered:,}"),
        ("acknowledged", f"{acknowledged:,}"),
        ("stale reports", f"{stale:,}"),
        ("needless elections", str(result.needless_elections)),
        ("median outage", _ms(result.outage_median_s)),
        ("worst outage", _ms(result.outage_max_s)),
    ]
    cells = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _verdict(result: Result) -> str:
    broken = Counter(text.split(":", 1)[0] for text in result.violations)
    rows = []
    for promise, words in PROMISES:
        count = broken.pop(promise, 0)
        rows.append(_promise(promise, words, count, checked=result.verdict is not Verdict.ERROR))
    rows += [
        _promise(promise, "see below", count, checked=True) for promise, count in broken.items()
    ]
    told = "".join(
        f"<pre>{html.escape(text)}</pre>"
        for text in _by_history(result.violations[:VIOLATIONS_SHOWN])
    )
    more = len(result.violations) - VIOLATIONS_SHOWN
    told += f"<p>... and {more} more</p>" if more > 0 else ""
    if result.reason:
        told += f"<pre>{html.escape(result.reason)}</pre>"
    for name, why in result.not_injected.items():
        told += f'<p class="note">Not run: {html.escape(name)}: {html.escape(why)}</p>'
    return _section("Verdict", f'<ul class="promises">{"".join(rows)}</ul>{told}')


def _by_history(violations: Sequence[str]) -> list[str]:
    """Print each history once, below all its violations."""
    told: dict[str | int, list[str]] = {}
    for number, text in enumerate(violations):
        head, _, history = text.partition("\n")
        told.setdefault(history or number, []).append(head)
    return [
        "\n".join([*heads, history] if isinstance(history, str) else heads)
        for history, heads in told.items()
    ]


def _promise(promise: str, words: str, count: int, *, checked: bool) -> str:
    if count:
        mark, style = f"broken {count} times" if count > 1 else "broken", "bad"
    else:
        mark, style = ("kept", "good") if checked else ("not judged", "none")
    return (
        f"<li><b>{html.escape(promise)}</b> {html.escape(words)}"
        f' <span class="verdict {style}">{mark}</span></li>'
    )


def _legend() -> str:
    entries = "".join(f'<span><i class="key {style}"></i>{text}</span>' for style, text in LEGEND)
    return (
        f'<p class="legend">{entries}</p><p class="note">Each dot is a call: when it began, and how'
        " long it took (on a logarithmic scale); those never answered lie on the upper edge.</p>"
    )


def _thinned(ledger: Ledger) -> str:
    every = -(-len(ledger.calls) // POINTS_MAX)
    return (
        f'<p class="note">Of the answered calls, one in {every} is drawn.</p>' if every > 1 else ""
    )


def _faults(played: Played) -> str:
    found = [
        around(played.ledger, happening)
        for happening in played.happenings
        if happening.name != "finish"
    ]
    if not found:
        return '<p class="note">Nothing was broken.</p>'
    rows = [_fault(one, played.ledger.started_s) for one in found]
    head = (
        '<tr><th rowspan="2">at</th><th rowspan="2">fault</th><th rowspan="2">lasted</th>'
        '<th rowspan="2">write outage</th><th colspan="3">submits acknowledged a second</th>'
        '<th colspan="3">submit p50 / p99</th></tr><tr><th>before</th><th>during</th><th>after</th>'
        "<th>before</th><th>during</th><th>after</th></tr>"
    )
    return _table(head, rows)


def _fault(one: Around, started_s: float) -> list[str]:
    happening = one.happening
    ended_s = happening.ended_s
    spans = (one.before, one.during, one.after)
    return [
        f"{happening.began_s - started_s:.1f} s",
        f"{happening.name}: {happening.what} {' '.join(happening.nodes)}",
        "to the end" if ended_s is None else f"{ended_s - happening.began_s:.2f} s",
        _ms(one.outage_s),
        *(f"{span.per_s:.0f}" for span in spans),
        *(_latency(span) for span in spans),
    ]


def _latency(span: Span) -> str:
    return "-" if span.p50_s is None else f"{_ms(span.p50_s)} / {_ms(span.p99_s)}"


def _calls(ledger: Ledger) -> str:
    answers: dict[str, Counter[str]] = {}
    details: dict[str, Counter[str]] = {}
    for call in ledger.calls:
        answers.setdefault(kind_of(call), Counter())[call.answer.value] += 1
        if call.detail:
            details.setdefault(kind_of(call), Counter())[call.detail] += 1
    rows = [
        [
            kind,
            *(f"{counts[answer]:,}" for answer in ("applied", "refused", "unknown")),
            ", ".join(f"{text}: {n:,}" for text, n in details.get(kind, Counter()).most_common(4)),
        ]
        for kind, counts in answers.items()
    ]
    heads = ("call", "answered", "refused", "never answered", "said by those that failed")
    return _table(f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>", rows)


def _table(head: str, rows: Iterable[Sequence[str]]) -> str:
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.1f} ms" if seconds < EXACT_BELOW_S else f"{seconds * 1e3:,.0f} ms"
