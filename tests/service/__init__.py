"""The edge: calls in, answers and failures out."""
