"""Settings of queues: all, some of them, only if they are as they were read; and their end."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, reason, replied, spec
from tq.v1 import queue_service_pb2 as pb
from tq_cluster.core.model.operations import ConfigureQueue, DeleteQueue, Outcome, Refused

Settings = pb.QueueSettings


def configure(queue: LoneQueue, request: pb.ConfigureQueueRequest) -> Outcome:
    request.queue = request.queue or "default"
    return queue.outcome(ConfigureQueue(request=request))


def settings_of(outcome: Outcome) -> pb.QueueSettings:
    return replied(outcome, pb.ConfigureQueueResponse).settings


def delete(queue: LoneQueue, name: str = "default") -> Outcome:
    return queue.outcome(DeleteQueue(request=pb.DeleteQueueRequest(queue=name)))


def aging() -> LoneQueue:
    """One with settings of its own."""
    queue = LoneQueue()
    wanted = Settings(ordering=Settings.ORDERING_AGING)
    wanted.aging.FromSeconds(2)
    configure(queue, pb.ConfigureQueueRequest(settings=wanted))
    return queue


def test_only_what_the_mask_names_is_set() -> None:
    queue = aging()
    request = pb.ConfigureQueueRequest(settings=Settings(paused=True))
    request.update_mask.paths.append("paused")

    paused = settings_of(configure(queue, request))

    assert (paused.ordering, paused.paused) == (Settings.ORDERING_AGING, True)
    assert paused.aging.ToSeconds() == 2
    request.settings.ClearField("paused")
    request.update_mask.paths[:] = ["ordering", "aging"]
    reset = settings_of(configure(queue, request))
    assert (reset.ordering, reset.paused) == (Settings.ORDERING_STRICT, True)
    assert reset.aging.ToSeconds() == 1


def test_without_a_mask_all_is_replaced() -> None:
    queue = aging()

    replaced = settings_of(configure(queue, pb.ConfigureQueueRequest(settings=Settings())))

    assert (replaced.ordering, replaced.aging.ToSeconds()) == (Settings.ORDERING_STRICT, 1)


@pytest.mark.parametrize("paths", [["etag"], ["paused", "Paused"], ["x" * 10_000], ["paused"] * 4])
def test_a_mask_that_names_what_there_is_not_is_refused(paths: list[str]) -> None:
    queue = aging()
    request = pb.ConfigureQueueRequest(settings=Settings(paused=True))
    request.update_mask.paths.extend(paths)

    outcome = configure(queue, request)

    assert isinstance(outcome, Refused)
    assert (reason(outcome), outcome.field) == ("INVALID_ARGUMENT", "update_mask")
    assert len(outcome.message) < 200


def test_settings_that_others_have_changed_meanwhile_are_not_overwritten() -> None:
    queue = aging()
    read = settings_of(configure(queue, pb.ConfigureQueueRequest(settings=Settings(paused=True))))
    mine = pb.ConfigureQueueRequest(etag=read.etag)
    mine.settings.ordering = Settings.ORDERING_AGING
    configure(queue, pb.ConfigureQueueRequest(settings=Settings(etag="of no account")))

    outcome = configure(queue, mine)

    assert isinstance(outcome, Refused)
    assert reason(outcome) == "SETTINGS_CHANGED"
    assert "ordering STRICT, aging 1000 ms, not paused" in outcome.message
    now = settings_of(configure(queue, pb.ConfigureQueueRequest(settings=Settings())))
    mine.etag = now.etag
    set_ = settings_of(configure(queue, mine))
    assert set_.ordering == Settings.ORDERING_AGING
    assert set_.etag not in {now.etag, read.etag}


def test_a_queue_that_must_exist_is_not_created() -> None:
    queue = aging()
    request = pb.ConfigureQueueRequest(queue="typo", must_exist=True)

    assert reason(configure(queue, request)) == "NOT_FOUND"
    assert reason(delete(queue, "typo")) == "NOT_FOUND"
    request.queue = "default"
    assert settings_of(configure(queue, request)).ordering == Settings.ORDERING_STRICT


def test_an_empty_queue_is_deleted_and_comes_again_with_the_next_task() -> None:
    queue = aging()

    replied(delete(queue), pb.DeleteQueueResponse)

    assert reason(delete(queue)) == "NOT_FOUND"
    queue.submitted(spec(task_id="one"))
    settings = settings_of(
        configure(queue, pb.ConfigureQueueRequest(must_exist=True, settings=Settings(paused=True)))
    )
    assert settings.ordering == Settings.ORDERING_STRICT


def test_a_queue_with_a_task_in_any_state_is_not_deleted() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one"))
    refused = [reason(delete(queue))]
    (claimed,) = queue.claimed()
    refused.append(reason(delete(queue)))
    queue.complete(claimed)
    outcome = delete(queue)

    assert [*refused, reason(outcome)] == ["QUEUE_IN_USE"] * 3
    assert isinstance(outcome, Refused)
    assert outcome.metadata["actual"] == "1"
    assert queue.state("one") == "COMPLETED"


def test_a_deleted_queue_and_its_successor_fit_into_one_entry() -> None:
    queue = aging()
    request = pb.ConfigureQueueRequest(queue="default", settings=Settings(paused=True))

    outcomes = queue.decide(
        DeleteQueue(request=pb.DeleteQueueRequest(queue="default")),
        ConfigureQueue(request=request),
        DeleteQueue(request=pb.DeleteQueueRequest(queue="default")),
    ).outcomes

    assert [type(each).__name__ for each in outcomes] == ["Replied"] * 3
    assert reason(delete(queue)) == "NOT_FOUND"
