"""The users of the cluster: client, worker, operator, each made from generated stubs alone."""
