"""What tools/exercise.py is made of."""
