"""Page tokens: opaque, each for one method and one set of filters."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final

from google.protobuf.message import Message

from tq_cluster.core.kernel.validation import invalid
from tq_cluster.core.model.limits import Limits
from tq_cluster.core.model.operations import Refused

PAGE_SIZE_DEFAULT: Final = 100
_DIGEST_BYTES: Final = 6
_PAGING_FIELDS: Final = ("page_size", "page_token", "read_level")
"""The fields that may differ from page to page."""
TOKEN_CHARS_MAX: Final = 2_048
"""Longer than any genuine token: a position is a name or a few numbers."""
_MADE_UP: Final = "is no token that a page before ended with"


def size_of(page_size: int, limits: Limits) -> int | Refused:
    """Return the number of items for a page, or a refusal."""
    if page_size > limits.page_size_max:
        return invalid("page_size", f"is {page_size}; it takes 0 to {limits.page_size_max}")
    return page_size or PAGE_SIZE_DEFAULT


def token_of(request: Message, position: bytes) -> str:
    """Return the token of the page that begins at ``position``."""
    return urlsafe_b64encode(_filters_digest(request) + position).decode().rstrip("=")


def position_of(
    request: Message, page_token: str, position_bytes: int | None = None
) -> bytes | Refused:
    """Return where the page of a token begins: empty for the first page.

    ``position_bytes`` is the length of every position of this list, None if it varies.
    """
    if not page_token:
        return b""
    if len(page_token) > TOKEN_CHARS_MAX:
        return invalid("page_token", _MADE_UP)
    try:
        padding = "=" * (-len(page_token) % 4)
        token = urlsafe_b64decode(page_token.encode("ascii") + padding.encode())
    except (ValueError, binascii.Error):
        token = b""
    if len(token) <= _DIGEST_BYTES:
        return invalid("page_token", _MADE_UP)
    if token[:_DIGEST_BYTES] != _filters_digest(request):
        return invalid("page_token", "belongs to other filters; start from the first page")
    position = token[_DIGEST_BYTES:]
    if position_bytes is not None and len(position) != position_bytes:
        return invalid("page_token", _MADE_UP)
    return position


def made_up(field: str) -> Refused:
    """Return the refusal of a token that no page ended with."""
    return invalid(field, _MADE_UP)


def _filters_digest(request: Message) -> bytes:
    filters = type(request)()
    filters.CopyFrom(request)
    for name in _PAGING_FIELDS:
        if name in filters.DESCRIPTOR.fields_by_name:
            filters.ClearField(name)
    # Two requests of different methods, both without filters, encode alike.
    method = request.DESCRIPTOR.full_name.encode()
    encoded = filters.SerializeToString(deterministic=True)
    return blake2b(method + b"\0" + encoded, digest_size=_DIGEST_BYTES).digest()
