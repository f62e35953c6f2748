"""Measure, and draw what was measured: `python -m benchmarks.plots --out FOLDER [PLOT...]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from benchmarks import machine
from benchmarks.plots import depth, outages, throughput
from benchmarks.plots.load import Limits
from benchmarks.plots.sizes import DEEP, DEEP_MINUTES, DEPTHS, MINUTES, RATES, Sizes
from chaos.interrupts import end_in_order

EXIT_INTERRUPTED: Final = 130
"""As a shell reports a program that Ctrl-C ended."""

Found = TypeVar("Found", throughput.Throughput, depth.Depths, outages.Outages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot(Generic[Found]):
    """How a plot is measured and drawn."""

    says: str
    options: Sequence[str]
    """The options that change it, beside `--minutes`."""
    found: type[Found]
    """What is measured; it is kept as JSON."""
    measure: Callable[[Sizes, Path | None, Found], Awaitable[None]]
    draw: Callable[[Found, Sequence[str]], str]

    def run(self, sizes: Sizes, data_dir: Path | None, files: Files) -> str | None:
        """Measure; write all that was complete. Return what went wrong, if anything did."""
        described = machine.describe(data_dir, files.command)
        bystanders = machine.Bystanders()
        found = self.found()
        fault = None
        try:
            asyncio.run(self._measured(sizes, data_dir, found))
        except KeyboardInterrupt:
            fault = "interrupted"
        except Exception as error:  # noqa: BLE001  # reported, after what is complete is written
            fault = f"{type(error).__name__}: {error}"
        described["other programs"] = f"took {bystanders.share():.0%} of the cores meanwhile"
        if fault is not None:
            described["not complete"] = fault
        if not found.empty:
            files.write(described, sizes, asdict(found))
            self.redraw(files)
        return fault

    async def _measured(self, sizes: Sizes, data_dir: Path | None, found: Found) -> None:
        await self.measure(sizes, data_dir, found)

    def redraw(self, files: Files) -> None:
        """Draw what is kept as JSON."""
        kept = json.loads(files.json.read_text())
        found = TypeAdapter(self.found).validate_python(kept["measured"])
        files.svg.write_text(self.draw(found, facts(kept["machine"])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The two files of a plot."""

    out: Path
    name: str
    command: str

    @property
    def json(self) -> Path:
        return self.out / f"{self.name}.json"

    @property
    def svg(self) -> Path:
        return self.out / f"{self.name}.svg"

    def write(
        self, described: Mapping[str, str], sizes: Sizes, measured: Mapping[str, Any]
    ) -> None:
        """Write the numbers."""
        kept = {"machine": dict(described), "sizes": asdict(sizes), "measured": measured}
        self.json.write_text(json.dumps(kept, indent=2) + "\n")


PLOTS: Final[Mapping[str, Plot[Any]]] = {
    "throughput": Plot(
        says="throughput against latency: submits, and tasks to their end, at rising rates",
        options=("rates", "seconds", "tasks"),
        found=throughput.Throughput,
        measure=throughput.measure,
        draw=throughput.draw,
    ),
    "depth": Plot(
        says="cost against depth: a submit, a claim and memory with ever more pending tasks",
        options=("depths", "calls"),
        found=depth.Depths,
        measure=depth.measure,
        draw=depth.draw,
    ),
    "outage": Plot(
        says="the distribution of write outages over killed leaders",
        options=("kills",),
        found=outages.Outages,
        measure=outages.measure,
        draw=outages.draw,
    ),
}


def facts(described: Mapping[str, str]) -> list[str]:
    """Say for a plot what was run, when and on what."""
    hardware = "; ".join(described[name] for name in ("cpu", "memory", "system", "disk"))
    lines = [
        f"{hardware}. Other programs {described['other programs']}.",
        f"{described['date']}, {described['command']}",
    ]
    if "not complete" in described:
        lines.append(f"NOT COMPLETE: {described['not complete']}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and draw each plot; exit code 1 if one is not complete."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    names = [name for name in PLOTS if name in (chosen.plots or PLOTS)]
    sizes = _sizes(chosen)
    chosen.out.mkdir(parents=True, exist_ok=True)
    faults = []
    if not chosen.redraw:
        end_in_order()
    for name in names:
        files = Files(out=chosen.out, name=name, command=_command(parser, chosen, name))
        if chosen.redraw:
            try:
                PLOTS[name].redraw(files)
                print(files.svg)
            except FileNotFoundError:
                faults.append(f"{name}: there is no {files.json}")
            except ValidationError:
                faults.append(f"{name}: {files.json} has other fields than this version writes")
            continue
        print(f"measuring {name}", file=sys.stderr)
        fault = PLOTS[name].run(sizes, chosen.data_dir, files)
        if fault == "interrupted":
            print("interrupted: only what was complete is drawn", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        if fault is None:
            print(files.svg, files.json, sep="\n")
        else:
            faults.append(f"{name}: {fault}")
    if faults:
        sys.exit("\n".join(faults))


def _sizes(chosen: argparse.Namespace) -> Sizes:
    depths = [*chosen.depths, DEEP] if chosen.deep else chosen.depths
    return Sizes(
        minutes=chosen.minutes or (DEEP_MINUTES if chosen.deep else MINUTES),
        rates=sorted(chosen.rates),
        step=Limits(seconds=chosen.seconds, calls_min=chosen.tasks),
        depths=sorted(set(depths)),
        calls=chosen.calls,
        kills=chosen.kills,
    )


def _command(parser: argparse.ArgumentParser, chosen: argparse.Namespace, name: str) -> str:
    """Write the command of one plot, without its folders."""
    words = ["python -m benchmarks.plots", name]
    for option in ("minutes", *PLOTS[name].options):
        value = getattr(chosen, option)
        if value != parser.get_default(option):
            listed = value if isinstance(value, list) else [value]
            words.append(f"--{option} {','.join(_number(each) for each in listed)}")
    if name == "depth" and chosen.deep:
        words.append("--deep")
    return " ".join(words)


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plots",
        description="Start three brokers on loopback, measure them, and write for each plot an SVG"
        " and its numbers as JSON. "
        + "; ".join(f"{name}: {each.says}" for name, each in PLOTS.items())
        + ".",
    )
    limits = Limits()
    parser.add_argument("plots", nargs="*", metavar="PLOT", choices=[*PLOTS, []], default=[])
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True)
    parser.add_argument(
        "--minutes",
        type=_positive,
        metavar="N",
        help="begin nothing further of a plot after so long"
        f" (default: {MINUTES:g}, or {DEEP_MINUTES:g} with --deep)",
    )
    parser.add_argument(
        "--rates",
        type=_numbers,
        default=list(RATES),
        metavar="N,N,...",
        help="throughput: the offered rates, tasks a second",
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=limits.seconds,
        metavar="S",
        help="throughput: how long each rate lasts (default: %(default)g)",
    )
    parser.add_argument(
        "--tasks",
        type=_count,
        default=limits.calls_min,
        metavar="N",
        help="throughput: a low rate lasts longer, until so many tasks (default: %(default)s)",
    )
    parser.add_argument(
        "--depths",
        type=_counts,
        default=list(DEPTHS),
        metavar="N,N,...",
        help="depth: the numbers of pending tasks",
    )
    parser.add_argument(
        "--deep", action="store_true", help=f"depth: also {DEEP:,} tasks, which takes long"
    )
    parser.add_argument(
        "--calls",
        type=_count,
        default=Sizes().calls,
        metavar="N",
        help="depth: the submits, and the claims, at each depth (default: %(default)s)",
    )
    parser.add_argument(
        "--kills",
        type=_count,
        default=Sizes().kills,
        metavar="N",
        help="outage: how many leaders are killed (default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the brokers keep their data"
    )
    parser.add_argument(
        "--redraw", action="store_true", help="draw the JSON in the folder again; measure nothing"
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("above 0")
    return value


def _counts(text: str) -> list[int]:
    return [_count(each) for each in text.split(",")]


def _numbers(text: str) -> list[float]:
    return [_positive(each) for each in text.split(",")]


if __name__ == "__main__":
    main()
