"""One run of a scenario, many of them, and what came of them."""
