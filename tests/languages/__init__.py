"""tq from other languages: what proto/ alone gives a client."""
