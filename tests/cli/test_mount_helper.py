"""The helper of mount(8)."""

import sys

import pytest

from modelfs.cli import main as command
from modelfs.cli import mount_helper
from modelfs.cli.failure import Code


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that the helper runs."""
    ran: list[list[str]] = []

    def run(arguments: list[str]) -> int:
        ran.append(list(arguments))
        return Code.OK

    monkeypatch.setattr(command, "run", run)
    return ran


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("/s /m", ["mount", "--", "/s", "/m"]),
        ("/s /m -o rw,noatime", ["mount", "-o", "rw,noatime", "--", "/s", "/m"]),
        ("/s /m -n -v -o ro -t fuse.modelfs", ["mount", "-o", "ro", "--", "/s", "/m"]),
        ("/s /m -o rw,dev,suid", ["mount", "-o", "rw", "--", "/s", "/m"]),
        ("/s /m -o nosuid,ro,dev", ["mount", "-o", "nosuid,ro", "--", "/s", "/m"]),
        ("-s -o ro -o nofail /s /m", ["mount", "-o", "ro", "-o", "nofail", "--", "/s", "/m"]),
    ],
)
def test_arguments(ran: list[list[str]], arguments: str, wanted: list[str]) -> None:
    """The arguments of mount(8) become those of `modelfs mount`."""
    assert mount_helper.run(arguments.split()) == Code.OK
    assert ran == [wanted]


def test_a_fake_mount(ran: list[list[str]]) -> None:
    """`mount -f` does everything but the mount."""
    assert mount_helper.run(["/s", "/m", "-f"]) == Code.OK
    assert ran == []


@pytest.mark.parametrize("arguments", ["", "/s", "/s /m /n", "/s /m -q"])
def test_wrong_usage(
    ran: list[list[str]], capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    """Wrong arguments end with 2 and the usage."""
    assert mount_helper.run(arguments.split()) == Code.USAGE
    printed = capsys.readouterr()
    assert "usage: mount.modelfs STORE MOUNTPOINT" in printed.out + printed.err
    assert ran == []


def test_a_path_in_the_place_of_a_command(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`modelfs STORE MOUNTPOINT` is a call of the helper, as mount.fuse3(8) makes it."""
    monkeypatch.setattr(sys, "argv", ["modelfs", "/s", "/m", "-o", "rw"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert ran == [["mount", "-o", "rw", "--", "/s", "/m"]]
