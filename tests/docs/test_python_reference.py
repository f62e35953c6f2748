"""docs/python-api.md has every public name of the packages, as their docstrings describe it."""

from __future__ import annotations

from pathlib import Path

import pytest

import tq_client
import tq_worker
from scripts import python_reference

DOCUMENT = (Path(__file__).parents[2] / "docs" / "python-api.md").read_text()
ELSEWHERE = {
    "RPC messages": {"TaskSpec"},
    "a type that the introduction explains": {"Span"},
    "the clock of leases, for workers in other programs": {"boottime_s"},
}


def test_the_committed_reference_is_what_the_docstrings_make_of_it() -> None:
    assert python_reference.reference() == DOCUMENT, "make api-docs, and commit what it writes"


@pytest.mark.parametrize("package", [tq_client, tq_worker], ids=lambda each: each.__name__)
def test_every_public_name_has_its_place(package: object) -> None:
    public: set[str] = set(getattr(package, "__all__"))  # noqa: B009  # modules have any attribute
    titles = {
        line.removeprefix("### ") for line in DOCUMENT.splitlines() if line.startswith("### ")
    }
    titles |= {title.removeprefix("tq_worker.").removeprefix("@") for title in titles}

    assert public - titles - set().union(*ELSEWHERE.values()) == set()
