"""The operations of the exerciser on files, and their frequencies.

Each operation makes one or a few system calls, does the same to the model of the file, and compares
the results. It does nothing if it is not possible at the moment.
"""

import errno
import mmap
import os
from collections.abc import Callable
from typing import Final

from tools.trust.exercise.content import BLOCK
from tools.trust.exercise.draw import CHUNK, PAGE, WINDOW, blocks
from tools.trust.exercise.files import File, Files, Handle, Wrong, fallocate

KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2
# Room for one direct transfer, with the pages before and behind the requested range.
DIRECT_MAX: Final = 3 * CHUNK
# A file of this length is ingested while it is still being written.
STREAM_WINDOWS: Final = (5, 6, 7)
ROW: Final = CHUNK // BLOCK

# Private, or the processes would share it.
_aligned = mmap.mmap(-1, DIRECT_MAX, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def read(files: Files) -> None:
    file = files.pick_part()
    start, size = file.clip(files.draw.offset(file.content.size), files.draw.size())
    fd = files.handle(file, write=False).fd
    files.note(file, f"pread({start}, {size})")
    files.compare(file, start, os.pread(fd, size, start), size, "pread")


def read_vectored(files: Files) -> None:
    file = files.pick_part()
    start, size = file.clip(files.draw.offset(file.content.size), files.draw.size())
    fd = files.handle(file, write=False).fd
    buffers = [bytearray(part) for part in files.draw.parts(size)]
    files.note(file, f"preadv({start}, {[len(each) for each in buffers]})")
    got = os.preadv(fd, buffers, start)
    files.compare(file, start, b"".join(buffers)[:got], size, "preadv")


def read_direct(files: Files) -> None:
    """Read past the kernel's page cache, so that the file system itself answers."""
    file = files.pick_part()
    start, size = file.clip(files.draw.offset(file.content.size), files.draw.size())
    handle = files.open(file, os.O_RDONLY | os.O_DIRECT)
    first = start // PAGE * PAGE
    room = -(-(start + size) // PAGE) * PAGE - first
    files.note(file, f"pread({first}, {room}) with O_DIRECT")
    with memoryview(_aligned) as view, view[:room] as part:
        got = os.preadv(handle.fd, [part], first) if room else 0
    data = _aligned[:got][start - first : start - first + size]
    files.compare(file, start, data, size, "pread with O_DIRECT")
    files.close(handle)


def read_mapped(files: Files) -> None:
    if (mapped := files.mapping(files.pick_part())) is None:
        return
    file, mapping = mapped
    start, size = _within(files, file, mapping)
    if size:
        files.note(file, f"load({start}, {size})")
        files.compare(file, start, files.load(mapping, start, size), size, "load")


def _within(files: Files, file: File, mapping: mmap.mmap) -> tuple[int, int]:
    end = min(len(mapping), file.content.size)
    start, size = file.clip(files.draw.offset(end), files.draw.size())
    return start, max(0, min(size, end - start))


def write(files: Files) -> None:
    file = files.pick_part()
    start, size = file.clip(files.draw.offset(file.content.size), files.draw.size())
    write_at(files, files.handle(file, write=True), start, files.draw.data(size))


def write_at(files: Files, handle: Handle, start: int, data: bytes) -> None:
    files.note(handle.file, f"pwrite({start}, {len(data)})")
    written = os.pwrite(handle.fd, data, start)
    handle.file.content.write(start, data[:written])
    if written != len(data):
        raise Wrong(f"pwrite of {len(data)} bytes wrote {written}")


def write_vectored(files: Files) -> None:
    file = files.pick_part()
    start, size = file.clip(files.draw.offset(file.content.size), files.draw.size())
    parts = [files.draw.data(part) for part in files.draw.parts(size)]
    fd = files.handle(file, write=True).fd
    files.note(file, f"pwritev({start}, {[len(each) for each in parts]})")
    written = os.pwritev(fd, parts, start)
    file.content.write(start, b"".join(parts)[:written])
    if written != size:
        raise Wrong(f"pwritev of {size} bytes wrote {written}")


def write_direct(files: Files) -> None:
    file = files.pick()
    start = files.draw.offset(file.content.size) // PAGE * PAGE
    size = -(-files.draw.size() // PAGE) * PAGE
    data = files.draw.data(size)
    handle = files.open(file, os.O_RDWR | os.O_DIRECT)
    files.note(file, f"pwrite({start}, {size}) with O_DIRECT")
    _aligned[:size] = data
    with memoryview(_aligned) as view, view[:size] as part:
        written = os.pwritev(handle.fd, [part], start)
    file.content.write(start, data[:written])
    if written != size:
        raise Wrong(f"pwrite with O_DIRECT of {size} bytes wrote {written}")
    files.close(handle)


def append(files: Files) -> None:
    file = files.pick()
    data = files.draw.data(files.draw.size())
    handle = files.open(file, os.O_WRONLY | os.O_APPEND)
    files.note(file, f"write({len(data)}) with O_APPEND, at {file.content.size}")
    written = os.write(handle.fd, data)
    file.content.write(file.content.size, data[:written])
    if written != len(data):
        raise Wrong(f"write with O_APPEND of {len(data)} bytes wrote {written}")


def write_mapped(files: Files) -> None:
    if (mapped := files.mapping(files.pick_part())) is None:
        return
    file, mapping = mapped
    start, size = _within(files, file, mapping)
    if size:
        data = files.draw.data(size)
        files.note(file, f"store({start}, {size})")
        files.store(mapping, start, data)
        file.content.write(start, data)


def flush_mapped(files: Files) -> None:
    if files.mappings:
        file, mapping = files.draw.one(files.mappings)
        files.note(file, "msync")
        mapping.flush()


def truncate(files: Files) -> None:
    file = files.pick()
    _resize(files, file, files.draw.offset(file.content.size))


def cut_and_grow(files: Files) -> None:
    """Punch a hole as far as the end, the way that every file system has."""
    file = files.pick()
    size = file.content.size
    _resize(files, file, min(size, files.draw.offset(size)))
    _resize(files, file, size)


def _resize(files: Files, file: File, size: int) -> None:
    if file.names and files.draw.chance(0.5):
        files.note(file, f"truncate({size})")
        os.truncate(files.path(files.draw.one(sorted(file.names))), size)
    else:
        fd = files.handle(file, write=True).fd
        files.note(file, f"ftruncate({size})")
        os.ftruncate(fd, size)
    file.content.resize(size)


def punch(files: Files) -> None:
    """Either the hole is there afterwards, or the call is refused and nothing has changed."""
    file = files.pick()
    start, size = files.draw.offset(file.content.size), files.draw.size()
    fd = files.handle(file, write=True).fd
    files.note(file, f"fallocate(PUNCH_HOLE, {start}, {size})")
    try:
        fallocate(fd, KEEP_SIZE | PUNCH_HOLE, start, size or 1)
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
    else:
        file.content.zero(start, size or 1)


def forget_pages(files: Files) -> None:
    """Have the kernel drop clean pages of a file, so that it asks again."""
    file = files.pick_part()
    handle = files.handle(file, write=False)
    files.note(file, "posix_fadvise(POSIX_FADV_DONTNEED)")
    os.posix_fadvise(handle.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def make_durable(files: Files) -> None:
    file = files.pick()
    handle = files.handle(file, write=files.draw.chance(0.5))
    call = files.draw.one((os.fsync, os.fdatasync))
    files.note(file, call.__name__)
    call(handle.fd)


def open_again(files: Files) -> None:
    files.open(files.pick(), files.draw.one((os.O_RDONLY, os.O_RDWR)))


def empty(files: Files) -> None:
    file = files.pick()
    files.open(file, os.O_RDWR | os.O_TRUNC)
    file.content.resize(0)


def close(files: Files) -> None:
    if files.handles:
        files.close(files.draw.one(files.handles))


def create(files: Files) -> None:
    handle = files.create(files.draw.one(files.all_names))
    if files.draw.chance(0.4):  # nothing but a hole, as programs reserve room
        _resize(files, handle.file, files.draw.offset(0))


def link(files: Files) -> None:
    free = [name for name in files.all_names if name not in files.named]
    if not free or not files.named:
        return
    old, new = files.draw.one(sorted(files.named)), files.draw.one(free)
    file = files.named[old]
    files.note(file, f"link({old}, {new})")
    os.link(files.path(old), files.path(new))
    file.names.add(new)
    files.named[new] = file


def rename(files: Files) -> None:
    if not files.named:
        return
    old, new = files.draw.one(sorted(files.named)), files.draw.one(files.all_names)
    move(files, old, new)


def move(files: Files, old: str, new: str) -> None:
    file, over = files.named[old], files.named.get(new)
    if over is not None:
        files.note(over, f"rename({old}, {new}): is replaced")
    files.note(file, f"rename({old}, {new})")
    os.rename(files.path(old), files.path(new))
    if file is over:
        return  # rename(2) of two names of one file does nothing
    if over is not None:
        over.names.remove(new)
    del files.named[old]
    files.named[new] = file
    file.names ^= {old, new}


def unlink(files: Files) -> None:
    if files.named:
        files.unlink(files.draw.one(sorted(files.named)))


def look(files: Files) -> None:
    file = files.pick()
    files.note(file, "fstat")
    files.check_attributes(file, files.handle(file, write=False).fd)


def look_at_names(files: Files) -> None:
    files.check_names()


def check(files: Files) -> None:
    files.check(files.pick_part())


def write_model(files: Files) -> None:
    """Write a model as programs do: in place, or under another name and then renamed."""
    name, target = (files.draw.one(files.all_names) for _ in range(2))
    model = files.draw.model()
    handle = files.create(name)
    at = 0
    for size in files.draw.parts(len(model)):
        write_at(files, handle, at, model[at : at + size])
        at += size
    if files.draw.chance(0.6):
        files.close(handle)
    if files.draw.chance(0.6):
        move(files, name, target)


def copy(files: Files) -> None:
    """Copy the data of a file into another, and nothing of its holes."""
    source, target = files.pick(), files.pick()
    if source is target or source.content.size > WINDOW:
        return
    data_of = files.handle(source, write=False).fd
    into = files.handle(target, write=True)
    for start, stop in source.content.regions():
        for at in range(start, stop, CHUNK):
            data = os.pread(data_of, min(CHUNK, stop - at), at)
            files.compare(source, at, data, min(CHUNK, stop - at), "pread")
            write_at(files, into, at, data)


def copy_range(files: Files) -> None:
    """Have the kernel copy."""
    source, target = files.pick(), files.pick()
    start, to, size = (
        files.draw.offset(source.content.size),
        files.draw.offset(target.content.size),
        files.draw.size(),
    )
    if source is target or not size:
        return
    fds = files.handle(source, write=False).fd, files.handle(target, write=True).fd
    files.note(target, f"copy_file_range({size}, {start}, {to}) from file {source.number}")
    done = os.copy_file_range(*fds, size, start, to)
    target.content.write(to, source.content.read(start, done))


def stream(files: Files) -> None:
    """Write a model so long that it is ingested on the way, with gaps and with later changes."""
    handle = files.create(files.draw.one(files.all_names))
    length = files.draw.one(STREAM_WINDOWS) * WINDOW
    gaps: list[int] = []
    files.note(handle.file, f"pwritev of {CHUNK} bytes each up to {length}, but for gaps")
    for at in range(0, length, CHUNK):
        if files.draw.chance(0.004):
            files.note(handle.file, f"a gap at {at}")
            gaps.append(at)
            continue
        _write_row(files, handle, at)
        if not at and files.draw.chance(0.8):
            write_at(files, handle, 0, files.draw.head(length))
        if files.draw.chance(0.03):
            write_at(files, handle, files.draw.below(at + CHUNK), files.draw.data(PAGE))
            start, size = files.draw.below(at + CHUNK), files.draw.size()
            got = os.pread(handle.fd, size, start)
            files.compare(handle.file, start, got, size, "pread")
    for at in gaps:
        if files.draw.chance(0.5):
            files.note(handle.file, f"pwritev({at}, {CHUNK}) into a gap")
            _write_row(files, handle, at)


def _write_row(files: Files, handle: Handle, start: int) -> None:
    """Write a chunk of blocks that many long files have, and their models share."""
    first = files.draw.below(len(blocks()) // ROW) * ROW
    row = blocks()[first : first + ROW]
    os.pwritev(handle.fd, row, start)
    for number, block in enumerate(row):
        handle.file.content.write(start + number * BLOCK, block)


Operation = Callable[[Files], None]

# What removes or empties a file is rare: most of them shall live long enough to be ingested, and be
# changed after that.
WEIGHTS: Final[dict[Operation, float]] = {
    read: 110,
    read_vectored: 30,
    read_direct: 80,
    read_mapped: 60,
    write: 120,
    write_vectored: 30,
    write_direct: 15,
    append: 20,
    write_mapped: 60,
    flush_mapped: 8,
    truncate: 12,
    cut_and_grow: 20,
    punch: 8,
    forget_pages: 30,
    make_durable: 5,
    open_again: 30,
    empty: 1,
    close: 60,
    create: 3,
    link: 4,
    rename: 4,
    unlink: 3,
    look: 40,
    look_at_names: 10,
    check: 8,
    write_model: 3,
    copy: 3,
    copy_range: 10,
    stream: 0.3,
}
