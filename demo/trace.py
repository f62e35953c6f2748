"""The trace to replay: when requests arrived, how large they were, how much they asked for."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FULL = ROOT.parent / "shared" / "data" / "azure_llm_code.csv"
SAMPLE = Path(__file__).resolve().parent / "data" / "azure_llm_code_sample.csv"
COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the trace."""

    number: int
    at_s: float
    """Seconds since the first request."""
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival."""

    path: Path
    is_sample: bool
    began_at: datetime
    requests: tuple[Request, ...]

    @property
    def span_s(self) -> float:
        """From the first request to the last."""
        return self.requests[-1].at_s


def load() -> Trace:
    """Read the whole trace if it is beside the repository, else the bundled sample of it."""
    path = FULL if FULL.is_file() else SAMPLE
    with path.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path}: columns are {reader.fieldnames}, expected {COLUMNS}")
        rows = [
            (_instant(row["TIMESTAMP"]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
            for row in reader
        ]
    began_at = rows[0][0]
    requests = tuple(
        Request(number, (at - began_at).total_seconds(), context, generated)
        for number, (at, context, generated) in enumerate(rows)
    )
    return Trace(path, path == SAMPLE, began_at, requests)


def _instant(text: str) -> datetime:
    """Parse an instant given to 100 ns, of which a datetime keeps the microseconds."""
    return datetime.fromisoformat(text[: len("2023-11-16 18:17:03.979960")]).replace(tzinfo=UTC)
