"""How the state is stored: the view of it, its tables and their keys, rows and chunks."""
