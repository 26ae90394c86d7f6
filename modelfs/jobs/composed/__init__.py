"""Jobs made of several others: garbage collection and ingest as a whole, a run of the optimizer."""
