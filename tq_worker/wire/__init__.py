"""What passes between the worker and a handler process, and what both agree on."""
