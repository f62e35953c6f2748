"""The vocabulary: operations and outcomes, states, ids, limits. Needs no other room."""
