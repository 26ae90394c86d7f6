"""The public Python interface: reading a store without a mount.

Promises. Any number of readers work beside one writer, such as a daemon that serves the store. A
reader locks nothing, and no writer waits for it. Each call sees the last commit: a file that is
being written has the bytes of its last flush, except that rewritten bytes inside them may show
early. Any thread may use a reader. It survives fork(2), pickles as the store's path, and opens the
store in each process at its first use there.

Bytes are checked against their checksums, as in a mount. A reader needs permission to read the
store's files and to write `index/lock.mdb`. Without the latter, as on a file system that is mounted
read-only, it works while no process has the store open for writing.
"""
