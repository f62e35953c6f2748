"""What no broker would take is refused here, with the reason that a broker would give."""

from __future__ import annotations

import pytest

from tests.client.fake_broker import FakeBroker, serving
from tq.v1.worker_service_pb2 import ReportRequest
from tq_client import AsyncClient, Reason
from tq_client.errors import InvalidArgumentError
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_common.limits import MESSAGE_BYTES_MAX


async def test_a_call_above_what_a_broker_takes_is_not_sent_and_told_by_limit_and_size() -> None:
    broker = FakeBroker()
    payload = bytes(MESSAGE_BYTES_MAX)
    report = ReportRequest(worker_id="w")
    report.reports.add(task_id="t").complete.result = payload
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        for call in (client.submit("films", "cut", payload), client.report(report)):
            with pytest.raises(InvalidArgumentError, match=f"{MESSAGE_BYTES_MAX:,}") as caught:
                await call
            assert caught.value.reason is Reason.PAYLOAD_TOO_LARGE
            assert caught.value.metadata["limit"] == str(MESSAGE_BYTES_MAX)
            assert int(caught.value.metadata["actual"]) > MESSAGE_BYTES_MAX
        await client.submit("films", "cut", b"small")

    assert [len(request.tasks[0].payload) for request in broker.of("Submit")] == [5]
    assert broker.of("Report") == []


def test_the_limit_is_the_brokers() -> None:
    assert DEFAULT_LIMITS.message_bytes_max == MESSAGE_BYTES_MAX
