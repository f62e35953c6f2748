"""Histories: recording what clients and workers saw, and judging it.

It has no clock and no event loop: the caller passes the time, so that a simulation can use it too.
"""
