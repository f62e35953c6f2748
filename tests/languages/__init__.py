"""tq from other languages: clients that use proto/ alone."""
