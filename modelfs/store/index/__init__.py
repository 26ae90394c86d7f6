"""The index: tables of records in LMDB, and in memory the changes since its last commit."""
