"""The cluster as containers. Needs a Docker engine: `make test-compose`."""
