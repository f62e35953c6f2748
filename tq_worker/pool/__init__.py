"""Handler processes, as the worker sees them: started, filled, replaced, stopped."""
