"""How long a test waits for what has to come."""

from typing import Final

PATIENCE_S: Final = 120.0
"""Only a hang takes so long, however busy the machine is. Waits that pass are not slower for it."""
