"""Ingest: staged bytes become chunks and a file map."""
