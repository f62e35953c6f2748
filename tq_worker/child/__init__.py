"""A handler process. Handlers run here and nowhere else."""
