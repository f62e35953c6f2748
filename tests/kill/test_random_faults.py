"""Any order of kills, pauses and power cuts under load costs nothing that was acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.clients.load import Load, wrong_results
from chaos.cluster.processes import ProcessCluster
from chaos.history.verdict import report
from chaos.run.mutants import LAUNCHER
from tests.kill.nemesis import Nemesis
from tests.kill.powercut import ACCOUNTS_VARIABLE, LIE_VARIABLE
from tests.patience import PATIENCE_S
from tests.telling import RecordProperty, tell

pytestmark = pytest.mark.cluster

RAGE_S = 15.0
SEED = 1


async def test_faults_drawn_at_random_lose_nothing_and_double_nothing(
    tmp_path: Path, record_property: RecordProperty
) -> None:
    accounts = tmp_path / "accounts"
    accounts.mkdir()
    cluster = ProcessCluster(
        tmp_path / "cluster",
        # Sound: no bug is named. Its disks only keep account of what a power cut would leave.
        launcher=LAUNCHER,
        environment={ACCOUNTS_VARIABLE: str(accounts), LIE_VARIABLE: str(tmp_path / "lie")},
    )
    nemesis = Nemesis(cluster, accounts, SEED)
    async with cluster, Load(cluster, seed=SEED) as load:
        await load.await_under_way()
        await nemesis.rage(RAGE_S)
        nemesis.relent()
        relented_s = load.ledger.now_s()
        await load.await_acknowledgement(within_s=PATIENCE_S, since_s=relented_s)
        await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
        violations = await load.finish()
        wrong = wrong_results(load.ledger)
    complaints = [line for broker in cluster.brokers.values() for line in broker.complaints()]
    tell(
        record_property, f"seed {SEED}, {len(nemesis.deeds)} faults and repairs: {load.describe()}"
    )

    assert report(load.ledger, violations) == "", nemesis.deeds
    assert not wrong, nemesis.deeds
    assert not complaints
