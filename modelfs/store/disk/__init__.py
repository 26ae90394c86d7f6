"""The backing disk: open files, deletes, slow calls and free space."""
