"""The command line: what users and scripts call."""
