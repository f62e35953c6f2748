"""One run of a scenario, many runs, and their results."""
