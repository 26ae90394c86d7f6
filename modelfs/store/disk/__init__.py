"""The disk: descriptors and room."""
