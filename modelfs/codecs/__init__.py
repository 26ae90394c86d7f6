"""Bytes to fewer bytes and back, one codec a file. Pure."""
