"""Request handlers: what the kernel asks, answered."""
