"""The payload of a task and its work: the same code makes, runs and checks it."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import zlib

from demo.trace import Request

ROUNDS_A_TOKEN = 50
"""Hash rounds for each token that the request generated."""
_HEADER = struct.Struct(">II")
_TEXT = (
    "def return self. for in if else: import None True ( ) : = [ ] queue task lease token leader"
)
_WORDS = [word.encode() + b" " for word in _TEXT.split()]


def payload(request: Request) -> bytes:
    """Make the payload: ``context_tokens`` bytes (a header at least) that look a little like code.

    The same request gives the same bytes everywhere, so that any process can check a result.
    """
    header = _HEADER.pack(request.number, request.generated_tokens * ROUNDS_A_TOKEN)
    draw = random.Random(request.number)
    body = b"".join(draw.choices(_WORDS, k=request.context_tokens))
    return header + body[: max(0, request.context_tokens - len(header))]


def result(payload: bytes) -> bytes:
    """Compress the payload and hash it many times: the work of a task."""
    number, rounds = _HEADER.unpack_from(payload)
    compressed = zlib.compress(payload)
    digest = hashlib.sha256(compressed).digest()
    for _ in range(rounds):
        digest = hashlib.sha256(digest).digest()
    return json.dumps(
        {
            "request": number,
            "bytes": len(payload),
            "compressed_bytes": len(compressed),
            "rounds": rounds,
            "sha256": digest.hex(),
        }
    ).encode()


def expected(request: Request) -> bytes:
    """Recompute a request's result from the trace alone."""
    return result(payload(request))
