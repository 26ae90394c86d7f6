"""The FUSE face: handlers, writeback, daemon. The only user of trio and pyfuse3."""
