"""Sketches of tensors, by which similar ones are found. Pure."""
