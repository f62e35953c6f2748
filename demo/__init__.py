"""A real trace through three brokers, three of whose leaders are killed on the way; then the proof.

python -m demo
"""
