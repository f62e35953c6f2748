"""Tests of what a task queue is."""
