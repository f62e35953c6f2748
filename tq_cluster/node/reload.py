"""Reloads the configuration while the broker runs (SIGHUP)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from tq_cluster.config import NodeConfig
from tq_cluster.errors import StartError
from tq_cluster.telemetry import logs

_logger = logging.getLogger(__name__)

RELOADED: Final = ("log.format", "log.level")
"""The settings that take effect without a restart."""

ReadAgain = Callable[[], NodeConfig]
"""Reads the file again, with the same environment and flags; StartError if it has mistakes."""


class Reloading:
    """Applies settings that can change while the broker runs, and reports those that cannot."""

    def __init__(self, config: NodeConfig, read_again: ReadAgain) -> None:
        self._started_with = _flat(config.model_dump(mode="json"))
        self._in_effect = self._started_with
        self._read_again = read_again
        self.also: list[Callable[[], object]] = []
        """Further steps of a reload."""

    def reload(self) -> None:
        """Reload the file. A file with mistakes changes nothing."""
        try:
            config = self._read_again()
        except StartError as error:
            _logger.warning("configuration not reloaded", extra={"reason": str(error)})
            return
        wanted = _flat(config.model_dump(mode="json"))
        waits = {**self._started_with, **{field: wanted.get(field) for field in RELOADED}}
        changed = _differing(self._in_effect, waits)
        self._in_effect = waits
        for each in self.also:
            each()
        logs.set_up(node_id=config.node_id, style=config.log.format, level=config.log.level)
        _logger.warning(
            "configuration reloaded",
            extra={
                "changed": ", ".join(changed) or "nothing",
                "needs_restart": ", ".join(_differing(waits, wanted)) or "nothing",
            },
        )


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return sorted(
        field for field in before.keys() | after.keys() if before.get(field) != after.get(field)
    )


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Every field by its path, such as ``log.level``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[above + name] = value
    return found
