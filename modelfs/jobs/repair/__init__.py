"""Repair a store: restore what other records still say, name the rest."""
