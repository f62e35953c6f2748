"""What the workers of the other systems run: one module for each, in a process of its own."""
