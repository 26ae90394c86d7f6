"""Scripts that measure and try modelfs. Run one with `tools/run NAME`; each has --help."""
