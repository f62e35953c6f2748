"""The lists in docs/new-feature.md are of files that exist, or that are said to be new."""

from __future__ import annotations

import re

import pytest

from tests.docs.commands import ROOT

TEXT = (ROOT / "docs" / "new-feature.md").read_text()
ROW = re.compile(r"^\| `(?P<file>[^`]+)` \| (?P<what>.+) \|$", re.MULTILINE)
LISTS = [part for part in TEXT.split("\n## ") if ROW.search(part)]


@pytest.mark.parametrize("part", LISTS, ids=lambda part: part.partition("\n")[0])
def test_a_file_of_the_list_exists_unless_it_is_new(part: str) -> None:
    named = {row["file"]: "*new*" in row["what"] for row in ROW.finditer(part)}

    assert {file: not (ROOT / file).exists() for file in named} == named


def test_the_counts_are_those_of_the_lists() -> None:
    numbers = re.search(r"has (\d+) files, (\d+) of .+ has (\d+), (\d+) of", TEXT)
    assert numbers is not None
    files = [[row["file"] for row in ROW.finditer(part)] for part in LISTS]
    core = [[file for file in each if file.startswith("tq_cluster/core/")] for each in files]

    counted = [len(each) for pair in zip(files, core, strict=True) for each in pair]
    assert [int(number) for number in numbers.groups()] == counted
    assert all(len(each) == len(set(each)) for each in files)
