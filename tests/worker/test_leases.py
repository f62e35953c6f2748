from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from tq.v1.task_pb2 import TaskSpec
from tq.v1.worker_service_pb2 import ClaimedTask
from tq_worker.wire.lease import Lease


@pytest.mark.parametrize(("waited_s", "until_s"), [(0, 1000 + 29.7), (20, 1000 + 49.5)])
def test_a_lease_is_believed_in_from_the_sending_of_the_claim_less_one_percent(
    waited_s: int, until_s: float
) -> None:
    claimed = ClaimedTask(
        spec=TaskSpec(task_id="t", type="x"),
        token=7,
        lease=Duration(seconds=30),
        waited=Duration(seconds=waited_s),
    )

    lease = Lease.of(claimed, sent_at_s=1000.0)

    assert lease.until_s == pytest.approx(until_s)
    assert lease.timeout_s is None


def test_a_handler_is_asked_to_stop_and_then_killed_before_its_lease_ends() -> None:
    claimed = ClaimedTask(lease=Duration(seconds=30), spec=TaskSpec(timeout=Duration(seconds=2)))
    lease = Lease.of(claimed, sent_at_s=0.0)

    assert lease.timeout_s == 2.0
    assert next(now_s for now_s in range(40) if lease.stop_due(now_s)) == 25
    assert next(now_s for now_s in range(40) if lease.kill_due(now_s)) == 29
