"""Jobs made of several others: garbage collection as a whole, and a run of the optimizer."""
