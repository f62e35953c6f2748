"""Histories: recording what clients and workers saw, and judging it.

No clock and no event loop: whoever records hands in the time, so that a simulation can use it too.
"""
