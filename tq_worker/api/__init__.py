"""What handlers are written with: the decorator, their context, their errors, their hooks."""
