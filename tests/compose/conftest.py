"""These tests run only where they are asked for by their marker: they need a Docker engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compose.stack import Stack


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, and say so, unless the mark expression names them."""
    if "compose" in config.option.markexpr:
        return
    unasked = [item for item in items if item.get_closest_marker("compose")]
    config.hook.pytest_deselected(items=unasked)
    items[:] = [item for item in items if item not in unasked]


@pytest.fixture
def stack() -> Iterator[Stack]:
    """The cluster's containers, none running yet; afterwards nothing is left of them."""
    containers = Stack()
    containers.down()
    try:
        yield containers
    finally:
        print(containers.describe())  # noqa: T201  # shown by pytest when the test failed
        containers.down()
