"""Other ways to keep the same files, as their manuals suggest, and the disk space they take."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.trust.crash.machine import loop_mounted, make_file_system

# Whether a file can be opened in its place, or has to be extracted first.
WRITABLE: Final = "yes"
READABLE: Final = "read-only"
EXTRACTED: Final = "no"


@dataclass(frozen=True, slots=True)
class Peer:
    """One other way. `keep` puts a folder's files into another, and returns the bytes it takes."""

    name: str
    access: str
    programs: Mapping[str, str]  # program: Debian package
    keep: Callable[[Path, Path], int]
    as_root: bool = False


@dataclass(frozen=True, slots=True)
class Weighed:
    """The space that a peer took; or without numbers, the reason why it was not tried."""

    name: str
    access: str
    stored: int | None = None
    seconds: float | None = None
    note: str = ""


def weigh(peer: Peer, corpus: Path, scratch: Path) -> Weighed:
    """Keep a corpus as `peer` does, in `scratch`, and remove the result."""
    if peer.as_root and os.geteuid() != 0:
        return Weighed(peer.name, peer.access, note="needs root")
    if lacking := missing(peer):
        return Weighed(peer.name, peer.access, note=f"needs {' '.join(lacking)}")
    place = scratch / "peer"
    place.mkdir()
    start = time.monotonic()
    try:
        stored = peer.keep(corpus, place)
    except (subprocess.CalledProcessError, OSError) as exc:
        return Weighed(peer.name, peer.access, note=f"failed: {_reason(exc)}")
    finally:
        shutil.rmtree(place)
    return Weighed(peer.name, peer.access, stored, time.monotonic() - start)


def missing(peer: Peer) -> list[str]:
    """Return the Debian packages whose programs are not installed."""
    return sorted({package for name, package in peer.programs.items() if not shutil.which(name)})


def install(packages: list[str]) -> None:
    """Install Debian packages.

    Raises:
        OSError: apt-get could not.
    """
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    print(" ".join(command))
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        done = subprocess.run(step, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise OSError(f"{' '.join(step)}: {_last_line(done.stderr)}")


def disk_bytes(path: Path) -> int:
    """Return the disk space of a file or folder by du(1), in bytes."""
    inside = path.rglob("*") if path.is_dir() else ()
    blocks: int = sum(entry.lstat().st_blocks for entry in (path, *inside))
    return 512 * blocks


def _copy(corpus: Path, place: Path) -> int:
    shutil.copytree(corpus, place / "copy")
    os.sync()  # bytes that are not on the disk yet have no blocks
    return disk_bytes(place / "copy")


def _tar(corpus: Path, place: Path) -> int:
    packed = place / "packed.tar.zst"
    _run(f"tar -cf - -C '{corpus}' . | zstd -q -3 -T0 --long=31 -o '{packed}'")
    return packed.stat().st_size


def _squashfs(corpus: Path, place: Path) -> int:
    image = place / "image.squashfs"
    _run(f"mksquashfs '{corpus}' '{image}' -comp zstd -b 1M -no-progress -quiet")
    return image.stat().st_size


def _borg(corpus: Path, place: Path) -> int:
    own = {"BORG_BASE_DIR": str(place / "own"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    repository = place / "repository"
    _run(f"borg init --encryption none '{repository}'", own)
    _run(f"cd '{corpus}' && borg create --compression zstd,3 '{repository}::one' .", own)
    os.sync()
    return disk_bytes(repository)


def _restic(corpus: Path, place: Path) -> int:
    own = {"RESTIC_PASSWORD": "none", "RESTIC_CACHE_DIR": str(place / "cache")}
    repository = place / "repository"
    _run(f"restic init --quiet --repo '{repository}' --repository-version 2", own)
    _run(f"cd '{corpus}' && restic backup --quiet --repo '{repository}' .", own)
    os.sync()
    return disk_bytes(repository)


def _btrfs(corpus: Path, place: Path) -> int:
    image, folder = place / "image", place / "mnt"
    size = sum(path.stat().st_size for path in corpus.rglob("*") if path.is_file())
    make_file_system("btrfs", image, 2 * size + (1 << 30))  # sparse
    with loop_mounted("btrfs", image, folder):
        _run(f"mount -o remount,compress-force=zstd:3 '{folder}'")
        before = _used(folder)
        shutil.copytree(corpus, folder / "copy")
        _run(f"sync -f '{folder}'")
        _run(f"duperemove -dr --hashfile '{place / 'hashes'}' '{folder}'")
        _run(f"btrfs filesystem sync '{folder}'")
        return _used(folder) - before


def _used(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _run(command: str, environment: Mapping[str, str] | None = None) -> None:
    subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def _reason(exc: subprocess.CalledProcessError | OSError) -> str:
    return _last_line(exc.stderr) if isinstance(exc, subprocess.CalledProcessError) else str(exc)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


PEERS: Final = (
    Peer("plain copy", WRITABLE, {}, _copy),
    Peer("btrfs, zstd, duperemove", WRITABLE, {
        "mkfs.btrfs": "btrfs-progs", "duperemove": "duperemove",
    }, _btrfs, as_root=True),
    Peer("squashfs, zstd", READABLE, {"mksquashfs": "squashfs-tools"}, _squashfs),
    Peer("restic", READABLE, {"restic": "restic"}, _restic),
    Peer("borg, zstd", READABLE, {"borg": "borgbackup"}, _borg),
    Peer("tar, zstd --long=31", EXTRACTED, {"zstd": "zstd"}, _tar),
)  # fmt: skip
