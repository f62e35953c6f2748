"""The changelog has the form it names, and tells of what exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CHANGELOG.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Known limits"}


def test_it_has_the_form_of_keep_a_changelog_with_the_newest_version_first() -> None:
    versions = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", TEXT, re.MULTILINE)

    assert TEXT.startswith("# Changelog\n")
    assert versions[0] == ("Unreleased", "")
    released = [(tuple(map(int, version.split("."))), day) for version, day in versions[1:]]
    assert released == sorted(released, reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d{2}-\d{2}", day) for _, day in released)
    assert set(re.findall(r"^### (.+)$", TEXT, re.MULTILINE)) <= KINDS


def test_the_projects_version_is_in_it() -> None:
    assert re.search(rf"\b{re.escape(PROJECT['version'])}\b", TEXT)


def test_its_links_lead_somewhere_and_every_command_is_told_of() -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        assert "://" in target or (ROOT / target.partition("#")[0]).exists(), target
    for command in PROJECT["scripts"]:
        assert f"`{command}" in TEXT, f"{command} is not told of"
    for target in re.findall(r"`make ([a-z-]+)`", TEXT):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_it_promises_nothing_that_cannot_be() -> None:
    assert "exactly-once delivery" not in TEXT.lower()
