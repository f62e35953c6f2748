"""Tests of the task queue's core."""
