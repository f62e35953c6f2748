"""The secret that a cluster's brokers share, and prove to each other before the first Hello.

A file with one line, or with two while a new secret takes the place of an old one: both count then.
It is read at start and when the node is asked to read it again. It never appears in a log, an error
or a message.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from tq_cluster.errors import StartError

CHARS_MIN: Final = 32
CHARS_MAX: Final = 1024
LINES_MAX: Final = 2
FILE_BYTES_MAX: Final = 8192
NONCE_BYTES: Final = 32
_DRAWN_BYTES: Final = 32


class Secret(Protocol):
    """What the brokers share."""

    @property
    def keys(self) -> Sequence[bytes]:
        """One, or two that are both valid."""

    @property
    def required(self) -> bool:
        """Whether peers without a proof are refused; False while some lack the secret."""

    def nonce(self) -> bytes:
        """Draw NONCE_BYTES that were never drawn before."""


class ClusterSecret:
    """What the file holds. Implements ``Secret``."""

    def __init__(self, path: Path, *, required: bool = True) -> None:
        """Read the file; StartError says what is wrong with it."""
        self.path = path
        self.required = required
        self._keys = read(path)

    @property
    def keys(self) -> Sequence[bytes]:
        """One, or two that are both valid."""
        return self._keys

    def nonce(self) -> bytes:
        """Draw from the system's source."""
        return secrets.token_bytes(NONCE_BYTES)

    def reload(self) -> None:
        """Read the file again. StartError: it is not valid, and what was read before counts."""
        self._keys = read(self.path)

    @property
    def readable_by_others(self) -> bool:
        """Whether any user of this machine may read the file."""
        try:
            return bool(self.path.stat().st_mode & stat.S_IROTH)
        except OSError:
            return False


def read(path: Path) -> tuple[bytes, ...]:
    """Return the secrets in a file; StartError says what is wrong with it, and shows none."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise StartError(
            f"cluster_secret_file: {path} cannot be read: {error.strerror}; right is a file that"
            " `tq-cluster draw-secret` made, the same for all brokers"
        ) from error
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if len(content) > FILE_BYTES_MAX or not 1 <= len(lines) <= LINES_MAX:
        raise StartError(
            f"cluster_secret_file: {path} holds {len(lines)} lines; right is one secret, or two"
            " lines while a new one takes the place of an old one"
        )
    for number, line in enumerate(lines, 1):
        if not CHARS_MIN <= len(line) <= CHARS_MAX:
            raise StartError(
                f"cluster_secret_file: line {number} of {path} has {len(line)} characters; right"
                f" is {CHARS_MIN} to {CHARS_MAX}"
            )
    return tuple(lines)


def draw(path: Path) -> bool:
    """Make the file with a new secret, readable by its owner alone; False: it exists already.

    Several processes may try at once: all use the file that was made first. Raises OSError.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_urlsafe(_DRAWN_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        return True
    finally:
        partial.unlink()
