"""Files: inodes, names, maps, staged bytes, content."""
