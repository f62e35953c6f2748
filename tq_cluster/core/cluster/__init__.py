"""The cluster itself: who its members are, and how one begins from another's state."""
