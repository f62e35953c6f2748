"""What callers, strangers and editors of files do, where the machines are whole."""

from __future__ import annotations

from chaos.nemeses.abuse import (
    Conversations,
    DrippingConnections,
    Giants,
    IdleConnections,
    PortStrangers,
    SlowReaders,
    Storms,
)
from chaos.nemeses.files import EditedFiles
from chaos.nemeses.kill import KillLeader
from chaos.scenario import Family, Scenario

SCENARIOS = (
    Scenario(
        name="abuse-connections",
        summary="thousands of idle and of dripping connections to every port",
        nemeses=(IdleConnections, DrippingConnections),
        family=Family.ABUSE,
        duration_s=5,
    ),
    Scenario(
        name="abuse-readers",
        summary="connections that ask for large answers and do not read them",
        nemeses=(SlowReaders,),
        family=Family.ABUSE,
        others_tasks=True,
        duration_s=5,
    ),
    Scenario(
        name="abuse-giants",
        summary="calls beyond every limit, of up to 31 MiB, several at once",
        nemeses=(Giants,),
        family=Family.ABUSE,
        others_tasks=True,
        duration_s=5,
    ),
    Scenario(
        name="abuse-conversations",
        summary="conversations whose messages are never whole, and whose answers are not read",
        nemeses=(Conversations,),
        family=Family.ABUSE,
        others_tasks=True,
        duration_s=8,
    ),
    Scenario(
        name="abuse-storms",
        summary="storms of every kind of call at its limits, through every broker",
        nemeses=(Storms,),
        family=Family.ABUSE,
        others_tasks=True,
        duration_s=10,
    ),
    Scenario(
        name="abuse-strangers",
        summary="garbage, forged greetings, extreme terms on the raft ports; a killed leader",
        nemeses=(PortStrangers, KillLeader),
        family=Family.ABUSE,
        duration_s=5,
    ),
    Scenario(
        name="edited-files",
        summary="followers are started with files that name other members",
        nemeses=(EditedFiles,),
        family=Family.ABUSE,
        duration_s=4,
    ),
)
