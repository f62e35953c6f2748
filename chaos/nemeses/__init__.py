"""Ways to break a cluster, one a module: subclasses of ``chaos.nemeses.nemesis.Nemesis``."""
