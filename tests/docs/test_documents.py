"""What README and docs point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tq_client.errors import Reason

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
TEST = re.compile(r"`(?P<name>test_\w+)`")
PROMISE = re.compile(r"^\| (?P<promise>[^|]+) \| (?P<precisely>[^|]+) \|", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_every_named_test_is_in_it(document: Path) -> None:
    text = document.read_text()
    linked: set[str] = set()
    for link in LINK.finditer(text):
        target = link["target"].split("#")[0]
        if not target or "://" in target:
            continue
        path = document.parent / target
        assert path.exists(), f"{document.name} links to {target}, which is not there"
        for test in TEST.finditer(link["text"]):
            linked.add(test["name"])
            assert f"def {test['name']}(" in path.read_text(), f"{target} has no {test['name']}"
    unlinked = {test["name"] for test in TEST.finditer(text)} - linked
    assert not unlinked, f"{document.name} names tests without linking to them: {unlinked}"


def test_readme_and_guarantees_promise_the_same_in_the_same_words() -> None:
    def promises(name: str) -> list[tuple[str, str]]:
        found = PROMISE.findall((ROOT / name).read_text())
        names = [promise for promise, _ in found]
        begin = names.index("durable")
        return found[begin : names.index("available") + 1]

    assert len(promises("README.md")) == 7
    assert promises("README.md") == promises("docs/guarantees.md")


def test_every_reason_of_the_api_is_explained() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()

    unexplained = {reason for reason in Reason if f"`{reason}`" not in text}

    assert unexplained == {Reason.UNSPECIFIED}


def test_no_document_promises_what_cannot_be() -> None:
    for document in DOCUMENTS:
        assert "exactly-once delivery" not in document.read_text().lower()
