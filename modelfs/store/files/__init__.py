"""Files: inodes, names, attributes, maps, staged bytes and content."""
