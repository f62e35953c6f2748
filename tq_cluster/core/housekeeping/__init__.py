"""What time brings: one file a thing. Each is decided in slices of bounded rows."""
