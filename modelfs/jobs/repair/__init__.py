"""Repair a store: restore it from redundant records, and report the losses."""
