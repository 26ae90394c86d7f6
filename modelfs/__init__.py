"""A file system that keeps machine-learning models, each distinct tensor once."""
