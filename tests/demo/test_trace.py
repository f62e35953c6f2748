"""What the demo replays, and that its work can be checked by anyone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo import trace, work


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trace.Trace:
    monkeypatch.setattr(trace, "FULL", tmp_path / "absent.csv")
    return trace.load()


def test_the_bundled_sample_serves_where_the_whole_trace_is_absent(sample: trace.Trace) -> None:
    assert sample.is_sample
    assert len(sample.requests) == 600
    assert sample.requests[0] == trace.Request(0, 0.0, 2164, 11)
    assert sample.span_s == sample.requests[-1].at_s > 0


def test_a_file_of_another_shape_is_refused_by_its_columns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("when,what\n1,2\n")
    monkeypatch.setattr(trace, "FULL", other)

    with pytest.raises(ValueError, match="columns are \\['when', 'what'\\]"):
        trace.load()


def test_a_payload_has_the_size_that_the_trace_gives_and_is_always_the_same(
    sample: trace.Trace,
) -> None:
    for request in sample.requests:
        payload = work.payload(request)
        assert len(payload) == max(8, request.context_tokens)
        assert payload == work.payload(request)


def test_a_result_tells_what_was_compressed_and_how_long_it_was_hashed(
    sample: trace.Trace,
) -> None:
    request = sample.requests[0]

    result = json.loads(work.expected(request))

    assert result["bytes"] == 2164
    assert result["rounds"] == 11 * work.ROUNDS_A_TOKEN
    assert 0 < result["compressed_bytes"] < result["bytes"]
    assert work.expected(sample.requests[1]) != work.expected(request)
