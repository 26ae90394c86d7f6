"""The request handlers: answers to the kernel."""
