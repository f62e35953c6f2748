"""`tq-admin dead-letters` by what went wrong, on a real cluster; and its usage errors."""

from __future__ import annotations

import pytest

from chaos.cluster.processes import ProcessCluster
from tests.admin.conftest import Admin
from tests.admin.test_real_cluster import admin as admin_of
from tq.v1 import task_pb2
from tq.v1.worker_service_pb2 import ClaimRequest, ReportRequest
from tq_admin.dead_letter_groups import GROUPS_MAX, OTHERS, counted, kind_of
from tq_client import AsyncClient, Task, task_spec
from tq_client.errors import TqError

ERRORS = {
    "a": "ConnectionError: 10.0.0.1 refused",
    "b": "ConnectionError: 10.0.0.27 refused",
    "c": "ValueError: no such mailbox",
    "d": "ConnectionError: 10.0.0.3 refused",
}


async def with_dead_letters(client: AsyncClient) -> None:
    """Tasks a to d have failed for good, d in a queue of its own; their types are the errors'."""
    specs = [
        task_spec("other" if name == "d" else "mail", error.partition(":")[0], task_id=name)
        for name, error in ERRORS.items()
    ]
    assert not any(isinstance(each, TqError) for each in await client.submit_many(specs))
    claim = ClaimRequest(worker_id="w", queues=["mail", "other"], max_tasks=9)
    report = ReportRequest(worker_id="w")
    for task in (await client.claim(claim)).reply.tasks:
        item = report.reports.add(task_id=task.spec.task_id, token=task.token)
        item.fail.error, item.fail.permanent = ERRORS[task.spec.task_id], True
    await client.report(report)


@pytest.mark.cluster
async def test_dead_letters_are_counted_listed_redriven_and_deleted_by_what_went_wrong(
    cluster: ProcessCluster,
) -> None:
    async with AsyncClient(cluster.addresses) as client:
        await with_dead_letters(client)

    async def told(*arguments: str) -> object:
        ran = await admin_of(cluster, "dead-letters", *arguments, "-o", "json")
        assert ran.code == 0, ran.stderr
        return ran.json

    groups = await told("groups", "--queue", "mail")
    assert isinstance(groups, list)
    assert [(group["count"], group["type"], group["error"]) for group in groups] == [
        (2, "ConnectionError", "ConnectionError: N refused"),
        (1, "ValueError", "ValueError: no such mailbox"),
    ]
    listed = await told("list", "--error", "refused", "--since", "1h ago")
    assert isinstance(listed, list)
    assert {task["spec"]["task_id"] for task in listed} == {"a", "b", "d"}
    assert await told("list", "--until", "1h ago") == []
    chosen = ("--queue", "mail", "--type", "ConnectionError", "--error", "refused")
    assert await told("redrive", *chosen, "--dry-run") == {"dry_run": True, "dead_letters": 2}
    redriven = await told("redrive", *chosen, "--reason", "permanent_error")
    assert isinstance(redriven, dict)
    assert redriven["redriven"] == 2
    assert await told("redrive", *chosen, "--dry-run") == {"dry_run": True, "dead_letters": 0}
    everywhere = await told("redrive", "--error", "10.0.0.3")
    assert isinstance(everywhere, dict)
    assert everywhere["redriven"] == 1
    counted_ = await told("delete", "--queue", "mail", "--error", "mailbox", "--dry-run")
    assert counted_ == {"dry_run": True, "dead_letters": 1}
    deleted = await told("delete", "--queue", "mail", "--error", "mailbox", "--yes")
    assert isinstance(deleted, dict)
    assert deleted["deleted"] == 1
    assert await told("groups") == []


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("redrive a --dry-run", "takes a queue, not ids"),
        ("redrive a --type t", "name task ids, or a queue"),
        ("redrive --type t --dry-run", "needs --queue"),
        ("delete --type t --yes", "name the queue"),
        ("delete a --dry-run", "takes a queue, not ids"),
        ("list --since yesterday", "nor is it a span"),
        ("list --until 99999999999h", "nor is it a span"),
        ("groups --limit 0", "greater than or equal to 1"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(
    admin: Admin, arguments: str, hint: str
) -> None:
    ran = admin("dead-letters", *arguments.split())

    assert ran.code == 2
    assert hint in " ".join(ran.stderr.replace("│", " ").split())


def letter(number: int, error: str) -> Task:
    spec = task_pb2.TaskSpec(queue="q", type="t", task_id=f"t{number}")
    message = task_pb2.Task(spec=spec, state=task_pb2.TASK_STATE_FAILED, last_error=error)
    return Task.of(message)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("timeout after 3.2 s", "timeout after 12.07 s", True),
        ("no order 12345", "no order 1700000001", True),
        ("10.0.0.1:25 refused", "10.0.0.2:2525 refused", True),
        ("HTTP 404", "HTTP 500", False),
        ("a-defaced-facade-added-bed", "a-decade-effaced-deed-fade", False),
        ("no user 4d4171ebc30b42ff84480e348cfeaaae", "no user 579ca5b13d3d43c3b1456450", True),
        ("<Lock at 0x7f31>", "<Lock at 0x7f99aa>", True),
        ("first\nsecond", "first\nother", True),
        ("no such mailbox", "no such user", False),
    ],
)
def test_errors_are_of_one_kind_if_they_differ_in_ids_and_long_numbers_alone(
    one: str, other: str, same: bool
) -> None:
    assert (kind_of(letter(1, one)) == kind_of(letter(2, other))) is same


def test_a_list_of_groups_is_bounded() -> None:
    words = [f"{'x' * (number % 40)}{'y' * (number // 40)}" for number in range(GROUPS_MAX + 50)]
    found = counted(letter(number, word) for number, word in enumerate(words))

    assert len(found) == GROUPS_MAX + 1
    assert found[OTHERS].count == 50
