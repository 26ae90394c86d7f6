"""Which bytes of a file are which tensor. Pure: bytes in, records out."""
