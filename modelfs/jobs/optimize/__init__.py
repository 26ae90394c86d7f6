"""Optimize: give each chunk of a tensor its smallest exact form."""
