"""The records of decisions are complete, short, and true to the names in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "adr"
INDEX = FOLDER / "README.md"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))
DOCUMENTS = [INDEX, *RECORDS]
SECTIONS = ["Context", "Decision", "Consequences", "What was measured"]
WORDS_MAX = 500
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
TEST = re.compile(r"`(?P<name>test_\w+)`")
PATH = re.compile(r"`(?P<path>(?:proto|tests|tq_\w+)/[\w/.]+\.(?:py|proto))`")
NAME = re.compile(r"`(?P<name>[\w.]+)(?:\(\))?` in `(?P<path>[\w/.]+)`")


def name_of(path: Path) -> str:
    return path.stem


def test_records_are_numbered_without_gaps_and_the_index_lists_them_in_order() -> None:
    titles = [record.read_text().splitlines()[0] for record in RECORDS]

    assert [record.name[:4] for record in RECORDS] == [
        f"{number:04}" for number in range(1, len(RECORDS) + 1)
    ]
    assert re.findall(r"^\| \[\d{4}\]\((\S+)\) \| (.+) \|$", INDEX.read_text(), re.MULTILINE) == [
        (record.name, re.sub(r"^# \d+\. ", "", title))
        for record, title in zip(RECORDS, titles, strict=True)
    ]


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_a_record_is_a_page_and_says_why_what_at_what_cost_and_what_was_measured(
    record: Path,
) -> None:
    text = record.read_text()

    assert re.match(rf"# {int(record.name[:4])}\. \S", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert all(section.strip() for section in re.split(r"^## .+$", text, flags=re.MULTILINE))
    assert len(text.split()) <= WORDS_MAX
    assert TEST.search(text), "names no test that would fail without it"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere_and_named_tests_are_where_they_are_said_to_be(document: Path) -> None:
    text = document.read_text()
    linked: set[str] = set()
    for link in LINK.finditer(text):
        path = document.parent / link["target"]
        assert path.exists(), f"{link['target']} is not there"
        for test in TEST.finditer(link["text"]):
            linked.add(test["name"])
            assert f"def {test['name']}(" in path.read_text(), f"{path.name} has no {test['name']}"
    assert {test["name"] for test in TEST.finditer(text)} == linked


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_modules_that_are_named_exist_and_hold_what_is_said_to_be_in_them(document: Path) -> None:
    text = document.read_text()
    for named in PATH.finditer(text):
        assert (ROOT / named["path"]).is_file(), f"{named['path']} is not there"
    for named in NAME.finditer(text):
        *owner, last = named["name"].split(".")
        code = (ROOT / named["path"]).read_text()
        assert all(f"class {each}" in code for each in owner)
        assert re.search(rf"\b{last}\b", code), f"{named['path']} has no {named['name']}"


def test_no_record_promises_what_cannot_be() -> None:
    for document in DOCUMENTS:
        assert "exactly-once delivery" not in document.read_text().lower()
