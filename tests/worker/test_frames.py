from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tq.internal.v1.worker_child_pb2 import StopTask
from tq_worker.wire.frames import FrameReader, encode

MESSAGES = st.lists(st.text(max_size=300).map(lambda text: StopTask(token=1, reason=text)))


@given(MESSAGES, st.integers(1, 50))
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(
    messages: list[StopTask], piece_bytes: int
) -> None:
    stream = b"".join(encode(message) for message in messages)
    reader = FrameReader(StopTask)

    received = [
        message
        for at in range(0, len(stream), piece_bytes)
        for message in reader.feed(stream[at : at + piece_bytes])
    ]

    assert received == messages
