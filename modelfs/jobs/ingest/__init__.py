"""Ingest: put staged bytes into chunks, and the chunks into file maps."""
