"""Plots of the figures that are curves: throughput, depth and outages."""
