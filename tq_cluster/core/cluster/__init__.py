"""The cluster itself: its members, and a new cluster from the state of another."""
