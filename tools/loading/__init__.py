"""What tools/load.py is made of."""
