"""Who uses the cluster meanwhile: client, worker, operator, each from generated stubs alone."""
