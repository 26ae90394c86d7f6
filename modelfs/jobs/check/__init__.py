"""Check a store: every invariant of its index and its packs, and what a violation hurts."""
