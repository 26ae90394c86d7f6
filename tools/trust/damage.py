"""Does any damage make a file read as other bytes than were written, without a word?

    tools/run trust.damage [--stores N] [--first SEED] [--jobs N] [--kinds KIND,...] [--keep]

For each seed: copies a small store that has rows in every table, several packs and staged bytes;
damages it in one to five places; runs what `modelfs fsck --repair --data` runs; reads every file,
512 bytes at a time. A piece must have its bytes or fail to read. A file with a piece that fails, or
that is gone, must have been named; one whose name is gone with a page of names cannot be, but then
that page must have been. The kinds of damage:

    flip    one to three bytes of a file get other values
    zero    512 or 4,096 bytes of a file become zero
    stale   a page of the index is as an older commit had it: the disk lost a write
    meta    a bit of a meta page of the index flips, or the disk loses a write of one; in half of
            the stores the records of commits are gone
    cut     a file is cut short
    row     a bit of a row's value flips in the index
    drop    a row of the index is gone

The last two come first, since they need a commit, and the record of the pages' sums is of the store
as they leave it.

A store of whose index less than two pages are left, or both meta pages without a record, is refused
as lost: nothing of it is read.

Each store is repaired in a process of its own: one that ends by a signal, or that takes longer than
two minutes, has failed. Prints the number of stores by kind and outcome, and the first failures.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import lmdb

from modelfs.errors import IndexLost, ModelfsError
from modelfs.jobs.repair.run import RepairReport, repair
from modelfs.store.disk.directory import Directory
from modelfs.store.index.pages.layout import PageFile
from modelfs.store.index.pages.meta import META_SIZE, SECTOR, newest, read_metas, record_close
from modelfs.store.index.pages.uses import Use
from modelfs.store.index.pages.walk import PageWalk
from modelfs.store.index.superblock import SUPERBLOCK
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store
from tests.support.byte_damage import PIECE, Contents, files_of, read, walk
from tests.support.run_jobs import ingest_all
from tests.support.sample_store import CHUNK, fill
from tests.support.stores import new_file, new_store, noise

KINDS: Final = ("flip", "zero", "stale", "meta", "cut", "row", "drop")
OF_ROWS: Final = ("row", "drop")
# Of a file that is damaged: the index more often, since it has most kinds of content.
PLACES: Final = ("index", "index", "packs", "staging")
SECONDS_MAX: Final = 120
SHOWN: Final = 20  # failures
COMMITS: Final = 6  # of which older copies of the index are kept


@dataclass(frozen=True, slots=True)
class Template:
    """A sound store, older copies of its index, and the content of its files."""

    store: Path
    older: list[Path]
    good: Contents


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one store."""

    seed: int
    damage: tuple[str, ...]  # kind, place and details of each
    failures: tuple[str, ...]
    hurt: int  # files with pieces that fail to read, or that are gone
    is_refused: bool = False  # as a store whose index is lost


def main() -> int:
    options = _options()
    seeds = range(options.first, options.first + options.stores)
    tried, refused, failed, hurt = (Counter[str]() for _ in range(4))
    shown = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="damage") as folder:
        template = make_template(Path(folder))
        run = partial(_run_apart, template, Path(folder), options.kinds.split(","))
        with ThreadPoolExecutor(options.jobs) as pool:
            for outcome in pool.map(run, seeds):
                for kind in {each.split()[0] for each in outcome.damage} | {"all"}:
                    tried[kind] += 1
                    refused[kind] += outcome.is_refused
                    failed[kind] += bool(outcome.failures)
                    hurt[kind] += outcome.hurt
                if outcome.failures and shown < SHOWN:
                    shown += 1
                    print(f"seed {outcome.seed}: {'; '.join(outcome.damage)}")
                    for failure in outcome.failures:
                        print(f"    {failure}", flush=True)
    print(f"{'damage':8} {'stores':>8} {'refused':>8} {'failed':>8} {'files hurt':>12}")
    for kind in (*KINDS, "died", "all"):
        if tried[kind]:
            counts = f"{refused[kind]:8} {failed[kind]:8} {hurt[kind]:12}"
            print(f"{kind:8} {tried[kind]:8} {counts}")
    return 1 if failed.total() else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/run trust.damage", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--stores", type=int, default=100, help="how many stores to damage")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of damage, with commas")
    return parser.parse_args()


# -- the store


def make_template(folder: Path) -> Template:
    """Make a store in a folder, and keep a copy of its index after each of its last commits."""
    store = new_store(folder, chunk_size=CHUNK)
    fill(store)
    older: list[Path] = []
    for number in range(COMMITS):
        _change(store, number)
        older.append(folder / f"older{number}")
        shutil.copy(store / "index" / "data.mdb", older[-1])
    shutil.copytree(store, folder / "readable")
    return Template(store, older[:-1], files_of(folder / "readable"))


def _change(path: Path, number: int) -> None:
    """Make a commit that changes many tables, and leave staged bytes."""
    with Store(path) as store:
        names = store.namespace
        folder = names.lookup(ROOT, b"folder")
        new_file(store, b"later%d" % number, noise(3 * CHUNK, 100 + number), folder)
        if number % 2:
            store.packs.seal(max(store.packs.numbers()))
        ingest_all(store)
        text = names.lookup(folder, b"text")
        store.attributes.put(text, b"user.note%d" % number, noise(3000, number))
        staged = new_file(store, b"staged%d" % number, noise(10_000, 200 + number))
        store.flush(staged)


# -- damage


def damage(path: Path, template: Template, kinds: list[str], chance: random.Random) -> list[str]:
    """Damage a store, and return a description of each damage."""
    done: list[str] = []
    chosen = [chance.choice(kinds) for _ in range(chance.choice([1, 1, 2, 5]))]
    for kind in sorted(chosen, key=lambda kind: kind not in OF_ROWS):
        if kind in OF_ROWS:
            done.append(f"{kind} {_damage_row(path / 'index', kind, chance)}")
            record_close(Directory(path / "index"))  # as if the store had been closed with it
        elif kind == "stale":
            done.append(f"{kind} {_put_stale(path / 'index' / 'data.mdb', template, chance)}")
        elif kind == "meta":
            done.append(f"{kind} {_damage_meta(path / 'index' / 'data.mdb', template, chance)}")
        else:
            place = chance.choice(PLACES)
            file = chance.choice(sorted((path / place).glob("[!l]*")))
            done.append(f"{kind} {place}/{file.name} {_damage_file(file, place, kind, chance)}")
    return done


def _damage_file(file: Path, place: str, kind: str, chance: random.Random) -> str:
    if not (size := file.stat().st_size):
        return "none"
    if kind == "cut":
        stop = chance.randrange(size)
        os.truncate(file, stop)
        return f"at {stop}"
    # Most of the index's pages may be free.
    page = chance.choice(_used_pages(file)) * 4096 if place == "index" else None
    with file.open("r+b") as target:
        if kind == "zero":
            length = chance.choice([512, 4096])
            at = chance.randrange(size) // length * length if page is None else page
            at += 0 if page is None or length == 4096 else chance.randrange(8) * 512
            target.seek(at)
            target.write(bytes(max(0, min(length, size - at))))
            return f"{length} at {at}"
        places = []
        for _ in range(chance.choice([1, 1, 3])):
            at = chance.randrange(size) if page is None else page + chance.randrange(4096)
            target.seek(at)
            if not (old := target.read(1)):
                continue  # the file was cut before
            target.seek(at)
            target.write(bytes([old[0] ^ chance.randrange(1, 256)]))
            places.append(at)
        return f"at {places}"


def _used_pages(file: Path) -> list[int]:
    """Return the pages that the newest commit uses; all, if that cannot be found out any more."""
    with PageFile(Directory(file.parent)) as pages:
        meta = newest(read_metas(pages))
        if meta is None or PageWalk(pages, meta).problems:
            return [*range(max(1, pages.pages))]
        return PageWalk(pages, meta).uses.pages(Use.TREE)


def _put_stale(file: Path, template: Template, chance: random.Random) -> str:
    older = chance.choice(template.older).read_bytes()
    current = file.read_bytes()
    pages = [
        number
        for number in _used_pages(file)
        if number > 1
        and older[number * 4096 :][:4096] not in (b"", current[number * 4096 :][:4096])
    ]
    if not pages:
        return "none"
    number = chance.choice(pages)
    with file.open("r+b") as target:
        target.seek(number * 4096)
        target.write(_page(older, number))
    return f"page {number}"


def _damage_meta(file: Path, template: Template, chance: random.Random) -> str:
    """Flip a bit of a meta page, or let it be older; half of the time without records.

    Do nothing if an earlier damage has cut them off.
    """
    if file.stat().st_size < 2 * 4096:
        return "none"
    number = chance.randrange(2)
    has_records = chance.random() < 0.5
    with file.open("r+b") as target:
        for page in () if has_records else range(2):
            target.seek((page + 1) * 4096 - SECTOR)
            target.write(bytes(SECTOR))
        with_record = "with" if has_records else "without"
        # Without a record, nothing shows that the page of the last commit is older.
        if has_records and chance.random() < 0.2:
            target.seek(number * 4096)
            target.write(_page(chance.choice(template.older).read_bytes(), number)[:META_SIZE])
            return f"page {number}, older, {with_record} a record"
        bit = chance.randrange(8 * META_SIZE)
        target.seek(number * 4096 + bit // 8)
        old = target.read(1)[0]
        target.seek(number * 4096 + bit // 8)
        target.write(bytes([old ^ 1 << bit % 8]))
        return f"page {number}, bit {bit}, {with_record} a record"


def _page(data: bytes, number: int) -> bytes:
    return data[number * 4096 : (number + 1) * 4096]


def _damage_row(index: Path, kind: str, chance: random.Random) -> str:
    """Change or delete a row."""
    with lmdb.open(str(index), max_dbs=64, map_size=1 << 30, create=False) as env:
        with env.begin() as transaction, transaction.cursor() as cursor:
            names = [name for name, _ in cursor]
        table = chance.choice(names)
        database = env.open_db(table)
        with env.begin(write=True, db=database) as transaction:
            rows = [(key, value) for key, value in transaction.cursor() if key != SUPERBLOCK]
            rows = [row for row in rows if row[1] or kind == "drop"]
            if not rows:
                return "none"
            key, value = chance.choice(rows)
            if kind == "drop":
                transaction.delete(key)
                return f"{table.decode()} {key.hex()}"
            bit = chance.randrange(8 * len(value))
            changed = bytearray(value)
            changed[bit // 8] ^= 1 << bit % 8
            transaction.put(key, bytes(changed))
            return f"{table.decode()} {key.hex()} bit {bit}"


# -- repair


def _run_apart(template: Template, folder: Path, kinds: list[str], seed: int) -> Outcome:
    """Damage and repair one store, in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    path = folder / f"store-{seed}"
    process = context.Process(target=_run, args=(template, path, kinds, seed, sender))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv() if receiver.poll(SECONDS_MAX) else None
    except EOFError:
        outcome = None
    if outcome is None:
        process.kill()
    process.join()
    shutil.rmtree(path, ignore_errors=True)
    if isinstance(outcome, Outcome):
        return outcome
    chance = random.Random(seed)
    shutil.copytree(template.store, path)
    described = damage(path, template, kinds, chance)
    shutil.rmtree(path)
    return Outcome(seed, ("died", *described), (f"exit status {process.exitcode}",), 0)


def _run(template: Template, path: Path, kinds: list[str], seed: int, sender: Connection) -> None:
    chance = random.Random(seed)
    shutil.copytree(template.store, path)
    damaged = tuple(damage(path, template, kinds, chance))
    is_refused = False
    try:
        report = repair(path, data=True)
        failures, hurt = compare(path, template.good, report)
    except IndexLost:
        is_refused, failures, hurt = True, [], 0
    except (ModelfsError, OSError) as exc:
        failures, hurt = [f"repair: {type(exc).__name__}: {exc}"], 0
    except Exception:
        failures, hurt = [traceback.format_exc()], 0
    sender.send(Outcome(seed, damaged, tuple(failures), hurt, is_refused))


def compare(path: Path, good: Contents, report: RepairReport) -> tuple[list[str], int]:
    """Compare every file of a repaired store; return the failures, and how many files are hurt."""
    failures = [f"left: {finding.message}" for finding in report.after.findings]
    named = {file for finding in report.found for file in finding.files}
    named |= {file for action in report.actions for file in action.files}
    named |= set(report.after.lost.impact.files)
    lost_names = any(finding.invariant in ("page", "meta-page") for finding in report.found)
    hurt = 0
    with Store(path) as store:
        found = walk(store.dentries)
        for name, data in good.items():
            wrong, failed = _compare_file(store, found.get(name), data or b"")
            hurt += failed
            if wrong:
                failures.append(f"{os.fsdecode(name)} reads as other bytes: {wrong}")
            if failed and name not in named and not (lost_names and name not in found):
                failures.append(f"{os.fsdecode(name)} is hurt, and was not named")
    return failures, hurt


def _compare_file(store: Store, inode: int | None, data: bytes) -> tuple[str, bool]:
    """Return how a file reads as other bytes, and whether a part of it cannot be read."""
    if inode is None:
        return "", True
    failed = False
    for start in range(0, len(data), PIECE):
        piece = read(store, inode, start, PIECE)
        failed |= piece is None
        if piece is not None and piece != data[start : start + PIECE]:
            return f"{len(piece)} bytes at {start}", failed
    size = store.contents.node(InodeNumber(inode)).size
    return ("" if size == len(data) else f"it has {size} bytes"), failed


if __name__ == "__main__":
    sys.exit(main())
