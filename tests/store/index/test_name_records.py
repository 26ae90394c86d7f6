"""Names: those that a directory can have, and their rows."""

import pytest

from modelfs.errors import CorruptIndex
from modelfs.store.index.name_records import NAME_MAX, Dentry, Listed, is_name
from modelfs.store.index.tables import InodeNumber, named_key, pair_key

DENTRY = Dentry(InodeNumber(7), 9)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0", b"x" * (NAME_MAX + 1)])
def test_names_are_possible(name: bytes) -> None:
    """A directory has no entry of a name that no file can have."""
    assert not is_name(name)
    with pytest.raises(CorruptIndex, match="the name"):
        Dentry.from_row(named_key(1, name), DENTRY.to_bytes())
    with pytest.raises(CorruptIndex):
        Listed.from_row(pair_key(1, 9), Listed(InodeNumber(7), name).to_bytes())


@pytest.mark.parametrize("name", [b"\xff" * NAME_MAX, b"...", b" ", b"\n"])
def test_a_name_is_any_bytes(name: bytes) -> None:
    """A name may have up to `NAME_MAX` bytes of any value but those of "/" and NUL."""
    line = Listed(InodeNumber(7), name)
    assert Dentry.from_row(named_key(1, name), DENTRY.to_bytes()) == DENTRY
    assert Listed.from_row(pair_key(1, 9), line.to_bytes()) == line
