"""The options of `mount -o`."""

import pytest

from modelfs.cli.failure import Code, Failure
from modelfs.cli.fstab_options import parse_options


@pytest.mark.parametrize(
    "line",
    [
        "rw,noatime,nodev,nosuid",
        "defaults,_netdev,nofail,x-systemd.automount,X-mount.mkdir=0755",
        "rw,noexec,nosuid,nodev,user=alice",
        "noauto,users,relatime,lazytime,default_permissions,comment=models",
        "",
    ],
)
def test_lines_of_fstab(line: str) -> None:
    """The options that mount(8) passes on from an ordinary fstab are accepted."""
    assert not parse_options([line]).allow_other


def test_meaning() -> None:
    """Options with a meaning to modelfs or the kernel are kept, and no others."""
    parsed = parse_options(
        ["ro,nosuid,x-gvfs-hide", "noexec,allow_other,cache_size=2GiB,fsname=models"]
    )
    assert parsed.read_only is True
    assert parsed.allow_other is True
    assert parsed.cache_size == 2 << 30
    assert parsed.passed_on == ("nosuid", "noexec", "fsname=models")


@pytest.mark.parametrize(
    ("line", "read_only"),
    [("ro", True), ("rw", False), ("ro,rw", False), ("rw,ro", True), ("", None)],
)
def test_last_of_ro_and_rw(line: str, read_only: bool | None) -> None:
    """The last of ro and rw counts, as with mount(8)."""
    assert parse_options([line]).read_only is read_only


def test_last_of_opposites() -> None:
    """The kernel gets one of two opposites, the last one."""
    parsed = parse_options(["suid,nodev,sync", "nosuid,exec", "dev,async"])
    assert parsed.passed_on == ("nosuid", "exec", "dev", "async")


@pytest.mark.parametrize("option", ["allow_root", "uid=1000", "ro=1", "remount", "cache_size=big"])
def test_refused(option: str) -> None:
    """An option that modelfs does not support is refused by name, as wrong usage."""
    with pytest.raises(Failure, match=option.partition("=")[0]) as refused:
        parse_options(["rw", option])
    assert refused.value.code == Code.USAGE
