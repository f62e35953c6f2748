"""Stories: what happens to simulated clusters, how it is judged, and many of them."""
