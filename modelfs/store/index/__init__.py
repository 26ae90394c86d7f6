"""The index: records, tables, and the LMDB environment under them."""
