"""What deploy/ has for operators, checked against the product."""
