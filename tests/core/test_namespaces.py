"""The namespaces of a cluster, and where the default one may be meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.core.lone_queue import LoneQueue, spec
from tq_cluster.core.invariants import violations
from tq_cluster.core.kernel.validation import check_namespace_name
from tq_cluster.core.model.namespaces import NUMBER_MAX, ONLY_DEFAULT, Namespaces
from tq_cluster.core.model.operations import EndLeases, PauseQueues
from tq_cluster.core.model.types import DEFAULT_NAMESPACE
from tq_cluster.core.reads import queries
from tq_cluster.storage.memory import MemoryStore

BROKER = Path(__file__).resolve().parents[2] / "tq_cluster"
MEANT_IN = {
    "core/model/types.py": "its definition",
    "core/model/namespaces.py": "it exists in every cluster, and has a name",
    "core/model/operations.py": "the leader itself, and callers that name none",
    "core/reads/queries.py": "it exists in every state, also in one without queues",
    "leader/task_log.py": "its tasks are logged without their namespace",
    "service/entrance.py": "a call that names none is for it",
}


def test_a_namespace_has_a_number_and_a_name() -> None:
    namespaces = Namespaces({"shop": 7, "back-office": 3})

    assert list(namespaces.numbers) == [DEFAULT_NAMESPACE, 3, 7]
    assert namespaces.number_of("shop") == 7
    assert namespaces.number_of("default") == DEFAULT_NAMESPACE
    assert namespaces.number_of("nowhere") is None
    assert [namespaces.name_of(number) for number in namespaces.numbers] == [
        "default",
        "back-office",
        "shop",
    ]
    assert list(ONLY_DEFAULT.numbers) == [DEFAULT_NAMESPACE]


def test_only_outside_the_default_namespace_a_queue_is_named_with_its_namespace() -> None:
    namespaces = Namespaces({"shop": 7})

    assert namespaces.qualified(DEFAULT_NAMESPACE, "mail") == "mail"
    assert namespaces.qualified(7, "mail") == "shop/mail"


@pytest.mark.parametrize(
    "others", [{"a": 0}, {"a": -1}, {"a": NUMBER_MAX + 1}, {"a": 1, "b": 1}, {"default": 1}]
)
def test_two_namespaces_never_share_a_number_or_a_name(others: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Namespaces(others)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "é", "x" * 65, "a\n", "~other"])
def test_a_name_that_no_namespace_can_have_is_refused_with_what_would_be_right(name: str) -> None:
    refused = check_namespace_name("tq-namespace", name)

    assert refused is not None
    assert refused.field == "tq-namespace"
    assert "1 to 64 characters of A-Z a-z 0-9 . _ -" in refused.message


@pytest.mark.parametrize("name", ["a", "x" * 64, "Back-Office_2.eu"])
def test_a_name_like_a_queues_is_taken(name: str) -> None:
    assert check_namespace_name("tq-namespace", name) is None


def test_the_namespaces_in_a_state_are_found_by_their_queues() -> None:
    store = MemoryStore()
    assert queries.namespaces_in(store.view()) == [DEFAULT_NAMESPACE]
    for namespace in (NUMBER_MAX, 7, 0xFF):
        LoneQueue(store=store, namespace=namespace).submitted(spec())

    assert queries.namespaces_in(store.view()) == [DEFAULT_NAMESPACE, 7, 0xFF, NUMBER_MAX]


def test_the_invariants_of_one_namespace_hold_beside_the_request_ids_of_another() -> None:
    store = MemoryStore()
    here, shop = LoneQueue(store=store), LoneQueue(store=store, namespace=7)
    for queue in (here, shop):
        queue.submitted(spec(), request_id="r")

    assert violations(here.scope()) == violations(shop.scope()) == []


def test_ending_leases_and_pausing_queues_touches_one_namespace() -> None:
    store = MemoryStore()
    here, shop = LoneQueue(store=store), LoneQueue(store=store, namespace=7)
    for queue in (here, shop):
        queue.submitted(spec(task_id="one"))
        queue.claimed()

    shop.decide(EndLeases(quarantine=True, caller=shop.caller), PauseQueues(caller=shop.caller))

    assert (here.state("one"), shop.state("one")) == ("RUNNING", "FAILED")
    assert (here.stats().settings.paused, shop.stats().settings.paused) == (False, True)


def test_each_place_that_means_the_default_namespace_has_a_reason() -> None:
    """Any other place has to know whose namespace it works for."""
    found = {
        str(path.relative_to(BROKER))
        for path in BROKER.rglob("*.py")
        if re.search(r"\bDEFAULT_NAMESPACE\b", path.read_text())
    }

    assert found == set(MEANT_IN)
