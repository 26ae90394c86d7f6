"""The public Python interface: reading a store without a mount.

Promises. Any number of readers work beside one writer, such as a daemon that serves the store. A
reader that may write `index/lock.mdb` locks nothing, and no writer waits for it. Each call sees the
last commit: a file that is being written has the bytes of its last flush, except that bytes which
are overwritten in place may show early, until the file is in chunks. Any thread may use a reader.
It survives fork(2), pickles as the store's path and UUID, and opens the store in each process at
its first use there.

Bytes are checked against their checksums, as in a mount. A reader needs permission to read the
store's files, and creates none. Without permission to write `index/lock.mdb`, as on a file system
that is mounted read-only, or without that file, it works while no process has the store open for
writing, and keeps writers out during each call: a daemon that starts meanwhile fails with "locked
by process N".
"""
