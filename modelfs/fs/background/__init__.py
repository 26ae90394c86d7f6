"""Background jobs of a mounted store: flush, commit, ingest, gc, optimize, defragment, scrub."""
