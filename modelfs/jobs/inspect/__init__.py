"""Inspect: how one file is stored, tensor by tensor."""
