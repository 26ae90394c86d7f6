"""The options that the kernel gets."""

from pathlib import Path

import pytest

from modelfs.fs.mount_options import MountOptions


@pytest.mark.parametrize(
    ("given", "for_kernel"),
    [
        ((), {"nosuid", "nodev"}),
        (("noexec", "nosuid"), {"noexec", "nosuid", "nodev"}),
        (("suid",), {"suid", "nodev"}),
        (("dev", "suid"), {"dev", "suid"}),
    ],
)
def test_no_rights_unless_asked_for(given: tuple[str, ...], for_kernel: set[str]) -> None:
    """A program of the mount gets no rights of its owner, and no file is a device."""
    options = MountOptions(
        store=Path("/s"),
        mountpoint=Path("/m"),
        cache_size=0,
        read_only=False,
        allow_other=False,
        limit=None,
        options=given,
    )
    assert options.for_kernel() - {"subtype=modelfs", "default_permissions", "fsname=/s"} == (
        for_kernel
    )
