"""The decisions of public calls, one file per call."""
