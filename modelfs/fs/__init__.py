"""The file system as the kernel sees it: request handlers, background jobs, the daemon.

Only this package uses trio and pyfuse3.
"""
