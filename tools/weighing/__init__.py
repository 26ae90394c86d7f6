"""What tools/bench_space.py is made of."""
