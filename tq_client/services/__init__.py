"""The calls of each service, as parts of the client."""
