"""The options that the kernel gets."""

import os
from pathlib import Path

import pytest

from modelfs.fs.mount_options import MountOptions


def options_of(
    *, read_only: bool = False, options: tuple[str, ...] = (), passthrough: bool = False
) -> MountOptions:
    return MountOptions(
        store=Path("/s"),
        mountpoint=Path("/m"),
        cache_size=0,
        read_only=read_only,
        allow_other=False,
        limit=None,
        options=options,
        passthrough=passthrough,
    )


@pytest.mark.parametrize(
    ("user", "read_only", "options", "passes"),
    [
        (0, False, (), True),
        (1000, False, (), False),
        (0, True, (), False),
        (0, False, ("sync",), False),
    ],
)
def test_who_may_pass_files_through(
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    options: tuple[str, ...],
    *,
    read_only: bool,
    passes: bool,
) -> None:
    """Only root's daemon asks the kernel for passthrough, and only with the option."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    for passthrough in (False, True):
        mount = options_of(read_only=read_only, options=options, passthrough=passthrough)
        assert mount.passes_through == (passthrough and passes)


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
    assert options_of(options=given).for_kernel() - {
        "subtype=modelfs",
        "default_permissions",
        "fsname=/s",
    } == (for_kernel)
