"""What an error says of gRPC's message about a connection that it could not make."""

from __future__ import annotations

import pytest

from tq_common.grpc_causes import cause_of

BEFORE = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: "


@pytest.mark.parametrize(
    ("details", "cause"),
    [
        (
            f"{BEFORE}Failed to connect to remote host: Connection refused (111)",
            "Connection refused (111)",
        ),
        (f"{BEFORE}Socket closed", "Socket closed"),
        ("the broker is stopping", "the broker is stopping"),
        ("", ""),
    ],
)
def test_the_cause_is_told_without_the_words_around_it(details: str, cause: str) -> None:
    assert cause_of(details) == cause
