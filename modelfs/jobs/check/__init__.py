"""Check a store: the invariants of its index and its packs, and the impact of a violation."""
