"""The machine below: the kernel's settings for the mount, the heap, mapped pages."""
