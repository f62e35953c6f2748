"""How long a test waits for an expected event."""

from typing import Final

PATIENCE_S: Final = 120.0
"""Only a hang takes so long, even on a busy machine. It does not slow down waits that succeed."""
