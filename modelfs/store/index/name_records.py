"""The records of names in directories: those looked up by name, and those listed by cookie.

A name has a row in each of the two tables, with the same inode, and a key without a record in
`parents`. A listing goes by cookies, which never change: so it goes on where it stopped, although
names were created and removed.

Example. "a" in the root directory (inode 1) is a name of inode 2::

    dentries  1, "a"  Dentry: inode 2, cookie 3
    listing   1, 3    Listed: inode 2, name "a"
    parents   2, 1, 3
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from modelfs.errors import CorruptIndex
from modelfs.store.index.tables import InodeNumber, check_size, checked_number

NAME_MAX: Final = 255  # bytes
# Cookies 1 and 2 are those of "." and "..".
FIRST_COOKIE: Final = 3
# The kernel passes cookies to programs, as offsets in a directory.
COOKIE_END: Final = 1 << 62


def is_name(name: bytes) -> bool:
    """Whether a directory can have an entry of that name."""
    if not 0 < len(name) <= NAME_MAX:
        return False
    return name not in (b".", b"..") and b"/" not in name and b"\0" not in name


@dataclass(frozen=True, slots=True)
class Dentry:
    """A name's inode, and its cookie: its place in the listing, never used twice in a store.

    Value layout, 16 bytes: u64 inode, u64 cookie.
    """

    inode: InodeNumber
    cookie: int

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQ")

    def to_bytes(self) -> bytes:
        return self.LAYOUT.pack(self.inode, self.cookie)

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        try:
            inode, cookie = cls.LAYOUT.unpack(value)
        except struct.error as exc:
            raise CorruptIndex(f"dentry {value.hex()}: {exc}") from exc
        return cls(InodeNumber(inode), cookie)

    @classmethod
    def from_row(cls, key: bytes, value: bytes) -> Self:
        """Decode a row of the table `dentries`.

        Raises:
            CorruptIndex: the key is no inode and a name, or the value has the wrong length.
        """
        checked_number(key[:8])
        if not is_name(key[8:]):
            raise CorruptIndex(f"the name {key[8:]!r}")
        return cls.from_bytes(value)


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a directory's listing. Value layout: u64 inode, then the name."""

    inode: InodeNumber
    name: bytes

    def to_bytes(self) -> bytes:
        return self.inode.to_bytes(8, "little") + self.name

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        if len(value) < 9:
            raise CorruptIndex(f"listing entry {value.hex()}")
        return cls(InodeNumber(int.from_bytes(value[:8], "little")), value[8:])

    @classmethod
    def from_row(cls, key: bytes, value: bytes) -> Self:
        """Decode a row of the table `listing`.

        Raises:
            CorruptIndex: the key is no inode and a cookie, or no entry has that name.
        """
        check_size(key, 16)
        checked_number(key[:8])
        line = cls.from_bytes(value)
        if not is_name(line.name):
            raise CorruptIndex(f"the name {line.name!r}")
        return line
