"""Stories: the steps of simulated clusters, their checks, and campaigns of many."""
