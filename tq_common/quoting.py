"""Quotes what a caller sent, cut short, for an error message."""

from __future__ import annotations

from typing import Final

SHOWN_CHARS_MAX: Final = 60


def quoted(text: str, chars_max: int = SHOWN_CHARS_MAX) -> str:
    """Quote a text. It is cut before it is quoted: it may be long."""
    return repr(text if len(text) <= chars_max else text[:chars_max] + "...")


def shown(value: object, chars_max: int = SHOWN_CHARS_MAX) -> str:
    """Show a value as Python does, cut to so many characters."""
    text = repr(value)
    return text if len(text) <= chars_max else f"{text[:chars_max]}..."
