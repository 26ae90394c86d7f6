"""PyTorch archives: the zip directory, the pickle, the storages."""
