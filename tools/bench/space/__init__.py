"""What tools/run bench.space is made of."""
