r"""The entries of a zip archive, and where in the file their bytes lie.

The format is PKWARE's APPNOTE.TXT, sections 4.3.6 to 4.3.16. In file order::

    for each entry    local header: PK\3\4, 30 bytes, name, extra fields; then the entry's bytes,
                      and perhaps a data descriptor
    the directory     for each entry: PK\1\2, 46 bytes, name, extra fields, comment
    zip64 end         PK\6\6, 56 bytes or more: how many entries, size and place of the directory
    zip64 locator     PK\6\7, 20 bytes: the place of the zip64 end
    end               PK\5\6, 22 bytes: the same as in the zip64 end, as far as it fits; a comment

Compressed entries are yielded, too; only the bytes of the others lie in the archive as they are. An
archive is consistent only if the directory ends where its end begins, has as many entries as that
counts, in file order and apart from each other, and if every entry's local header has its name and
length. Readers of zip check less than that, so two of them may see different entries in one file.

Example. An archive of one entry `a` with the bytes `hi`::

    0    PK\3\4, method 0, sizes 2 and 2, name a
    31   hi
    33   PK\1\2, method 0, sizes 2 and 2, offset 0, name a
    80   PK\5\6, 1 entry, a directory of 47 bytes at 33

yields `Entry(b"a", stored=True, start=31, stop=33)`.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from modelfs.formats.layout import MalformedModel, ReadAt

BEGINNING: Final = b"PK\x03\x04"

_END: Final = struct.Struct("<4s4HIIH")
_LOCATOR: Final = struct.Struct("<4sIQI")
_END64: Final = struct.Struct("<4sQHHIIQQQQ")
_CENTRAL: Final = struct.Struct("<4s6H3I5HII")
_LOCAL: Final = struct.Struct("<4s5H3IHH")

# The value of fields of 16 and 32 bits whose number is in a zip64 field.
_WIDE16: Final = 0xFFFF
_WIDE: Final = 0xFFFFFFFF
_ZIP64_FIELD: Final = 1
MAX_COMMENT: Final = 0xFFFF

STORED: Final = 0
ENCRYPTED: Final = 1 << 0
# The local header has no sizes: they are behind the bytes, and in the directory.
DESCRIBED_LATER: Final = 1 << 3

# The directory is read so much at a time, and local headers where entries are small. Where they
# are large, each needs a read of its own.
WINDOW: Final = 65536
WINDOW_AFTER_JUMP: Final = 512


class Entry(NamedTuple):
    """One entry, and the place of its bytes: those that went in, if it is `stored`."""

    name: bytes
    stored: bool
    start: int
    stop: int


def entries(read_at: ReadAt, size: int) -> Iterator[Entry]:
    """Yield the entries of an archive of `size` bytes, in file order.

    Raises:
        MalformedModel: it is none, or is not consistent.
    """
    count, begin, stop = _directory(read_at, size)
    central, local = _Window(read_at, stop), _Window(read_at, begin)
    at, position = begin, 0
    for _ in range(count):
        header = _CentralHeader.read(central, at)
        entry = header.locate(local)
        if header.offset < position or entry.stop > begin:
            raise MalformedModel(f"entry {entry.name!r} overlaps another, or the directory")
        at, position = at + header.length, entry.stop
        yield entry
    if at != stop:
        raise MalformedModel(f"the directory ends at {at}, not {stop}")


class _Window:
    """Reads a file up to `stop`, in larger pieces than its caller needs."""

    def __init__(self, read_at: ReadAt, stop: int) -> None:
        self._read_at = read_at
        self._stop = stop
        self._data = b""
        self._base = 0

    def read(self, at: int, size: int) -> bytes:
        """Return `size` bytes at offset `at`.

        Raises:
            MalformedModel: they run past `stop`, or the file ends before.
        """
        index = at - self._base
        if 0 <= index <= len(self._data) - size:
            return self._data[index : index + size]
        if at + size > self._stop:
            raise MalformedModel(f"{size} bytes at {at} run past {self._stop}")
        follows = 0 <= index <= len(self._data) + WINDOW
        wanted = max(size, WINDOW if follows else WINDOW_AFTER_JUMP)
        self._data, self._base = self._read_at(at, min(wanted, self._stop - at)), at
        if len(self._data) < size:
            raise MalformedModel(f"the file ends before {at + size}")
        return self._data[:size]


class _CentralHeader(NamedTuple):
    """The header of an entry in the directory. `length` is that of this header, in bytes."""

    name: bytes
    flags: int
    method: int
    packed: int
    size: int
    offset: int
    length: int

    @classmethod
    def read(cls, central: _Window, at: int) -> "_CentralHeader":
        head = _CENTRAL.unpack(central.read(at, _CENTRAL.size))
        magic, _, _, flags, method, _, _, _, packed, size, *lengths, disk, _, _, offset = head
        if magic != b"PK\x01\x02" or disk not in (0, _WIDE16):
            raise MalformedModel(f"no entry of a directory at {at}")
        names, extras, comments = lengths
        rest = central.read(at + _CENTRAL.size, names + extras)
        size, packed, offset = _widened(rest[names:], size, packed, offset)
        length = _CENTRAL.size + names + extras + comments
        return cls(rest[:names], flags, method, packed, size, offset, length)

    def locate(self, local: _Window) -> Entry:
        """Return the entry, after a check of its local header."""
        head = _LOCAL.unpack(local.read(self.offset, _LOCAL.size))
        magic, _, flags, method, _, _, _, packed, _, names, extras = head
        name = local.read(self.offset + _LOCAL.size, names)
        if (magic, method, name) != (BEGINNING, self.method, self.name):
            raise MalformedModel(f"no entry {self.name!r} at {self.offset}")
        if not flags & DESCRIBED_LATER and packed not in (self.packed, _WIDE):
            raise MalformedModel(f"{packed} bytes of {self.name!r}, or {self.packed}")
        stored = self.method == STORED and not (flags | self.flags) & ENCRYPTED
        if stored and self.packed != self.size:
            raise MalformedModel(f"{self.size} bytes of {self.name!r} are {self.packed}")
        start = self.offset + _LOCAL.size + names + extras
        return Entry(self.name, stored, start, start + self.packed)


def _widened(extra: bytes, *numbers: int) -> list[int]:
    """Return numbers, those that did not fit taken from the zip64 field among the extra fields."""
    if _WIDE not in numbers:
        return list(numbers)
    field, at = b"", 0
    while at + 4 <= len(extra):
        number, size = struct.unpack_from("<HH", extra, at)
        if number == _ZIP64_FIELD:
            field = extra[at + 4 : at + 4 + size]
            break
        at += 4 + size
    wide = [field[at : at + 8] for at in range(0, len(field), 8)]
    if len(wide) < numbers.count(_WIDE):
        raise MalformedModel("no zip64 field for a number that does not fit")
    return [
        int.from_bytes(wide.pop(0), "little") if number == _WIDE else number for number in numbers
    ]


def _directory(read_at: ReadAt, size: int) -> tuple[int, int, int]:
    """Return how many entries there are, and start and stop of the directory."""
    end, fields = _end(read_at, size)
    _, disk, first_disk, here, count, length, start, _ = fields
    stop, locator = end, b""
    if end >= _LOCATOR.size:
        locator = read_at(end - _LOCATOR.size, _LOCATOR.size)
    if locator.startswith(b"PK\x06\x07"):
        _, end64_disk, stop, disks = _LOCATOR.unpack(locator)
        head = read_at(stop, _END64.size) if stop < end else b""
        if len(head) < _END64.size or end64_disk or disks > 1:
            raise MalformedModel(f"no zip64 end at {stop}")
        magic, end64_size, _, _, *fields64 = _END64.unpack(head)
        if magic != b"PK\x06\x06" or stop + 12 + end64_size != end - _LOCATOR.size:
            raise MalformedModel(f"no zip64 end at {stop}")
        disk, first_disk, here, count, length, start = fields64
    if disk or first_disk or here != count or start + length != stop:
        raise MalformedModel("the end of the directory does not fit it")
    return count, start, stop


def _end(read_at: ReadAt, size: int) -> tuple[int, tuple[int, ...]]:
    """Return the offset and the fields of the end of the directory.

    Nothing but its comment follows it.
    """
    tail = b""
    for longest in (0, MAX_COMMENT):
        at = max(0, size - _END.size - longest)
        tail = read_at(at, size - at)
        index = tail.rfind(b"PK\x05\x06", 0, len(tail) - _END.size + 4)
        while index >= 0:
            fields = _END.unpack_from(tail, index)
            if index + _END.size + fields[-1] == size - at:
                return at + index, fields
            index = tail.rfind(b"PK\x05\x06", 0, index)
    raise MalformedModel("no end of a directory")
