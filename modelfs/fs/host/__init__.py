"""The machine below the daemon: the kernel's settings for the mount, its pages, the heap."""
