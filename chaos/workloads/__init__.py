"""Work beside the steady load, one kind a module: subclasses of ``workload.Workload``."""
