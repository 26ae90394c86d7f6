"""Work behind the requests: flush, commit, ingest, gc, optimize, defragment, scrub."""
