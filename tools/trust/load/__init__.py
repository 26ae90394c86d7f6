"""What tools/run trust.load is made of."""
