"""Scenarios in which the cluster's members change."""

from __future__ import annotations

from chaos.nemeses.members import ReplaceMember
from chaos.scenario import Scenario

SCENARIOS = (
    Scenario(
        name="replace-member",
        summary="a node loses its disk and is replaced under load; its old disk turns up again",
        nemeses=(ReplaceMember,),
        duration_s=3,
    ),
)
