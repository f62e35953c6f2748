"""These tests run only if their marker is selected: they need a Docker engine."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.compose.stack import Stack


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests, and report that, unless the mark expression names them."""
    if "compose" in config.option.markexpr:
        return
    unasked = [item for item in items if item.get_closest_marker("compose")]
    config.hook.pytest_deselected(items=unasked)
    items[:] = [item for item in items if item not in unasked]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the containers and the ends of their logs if a test failed."""
    report = yield
    containers = getattr(item, "funcargs", {}).get("stack")
    if report.when == "call" and report.failed and isinstance(containers, Stack):
        report.sections.append(("containers", containers.describe()))
    return report


@pytest.fixture
def stack() -> Iterator[Stack]:
    """The cluster's containers, none running yet; they are all removed afterwards."""
    containers = Stack()
    containers.down()
    try:
        yield containers
    finally:
        containers.down()
