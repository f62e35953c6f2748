"""The broker: a replicated task queue behind gRPC."""
