"""Repair of any damage: it never fails, ends sound, and no file reads as something else.

The damage is to rows, which vanish, do not decode, or have other bits below their checksums, and to
bytes in packs. Damage of staged bytes is beyond it.
"""

import random
from pathlib import Path

import pytest

from modelfs.jobs.check.fsck import check
from modelfs.jobs.repair.run import repair
from modelfs.store.index.superblock import SUPERBLOCK
from modelfs.store.index.tables import Table
from modelfs.store.store import Store
from tests.support.byte_damage import Contents, files_of, lost_files
from tests.support.damaged_rows import flipped, raw_rows
from tests.support.sample_store import Sample


def damage_row(sample: Sample, chance: random.Random) -> None:
    table = chance.choice([*Table])
    rows = [key for key, _ in sample.store.index.pages(table) if key != SUPERBLOCK]
    if not rows:
        return
    key = chance.choice(rows)
    how = chance.choice(["delete", "junk", "stray"])
    if how == "junk":
        sample.put(table, key, b"junk!")
    elif how == "delete":
        sample.delete(table, key)
    else:
        sample.put(table, chance.randbytes(len(key)), b"junk!")


def damage_pack(sample: Sample, chance: random.Random) -> None:
    size = sample.pack.stat().st_size
    if chance.random() < 0.2:
        with sample.pack.open("r+b") as file:
            file.truncate(chance.randrange(size))
        return
    at = chance.randrange(size)
    data = bytearray(sample.pack.read_bytes())
    data[at] ^= 1 << chance.randrange(8)
    sample.pack.write_bytes(data)


def damage_stored(path: Path, chance: random.Random) -> None:
    """Flip a bit of a row as LMDB has it, or let the row vanish."""
    with raw_rows(path / "index") as rows:
        of_table = rows[chance.choice([table for table in Table if rows[table]])]
        key = chance.choice(sorted(of_table))
        match chance.choice(["value", "key", "vanish"]):
            case "value":
                of_table[key] = flipped(of_table[key], chance.randrange(8 * len(of_table[key])))
            case "key":
                of_table[flipped(key, chance.randrange(8 * len(key)))] = of_table.pop(key)
            case _:
                del of_table[key]


@pytest.mark.parametrize("seed", range(40))
def test_no_flipped_bit_is_too_much(sample: Sample, good: Contents, seed: int) -> None:
    """After bits of rows have flipped, each file reads as before, or fails and is named."""
    chance = random.Random(seed)
    sample.store.abandon()
    for _ in range(chance.choice([1, 2, 5])):
        damage_stored(sample.path, chance)
    _repair_and_compare(sample, good)


@pytest.mark.parametrize("seed", range(25))
def test_no_damage_is_too_much(sample: Sample, good: Contents, seed: int) -> None:
    """After any damage and a repair the store is sound, and what is not named reads as before."""
    chance = random.Random(seed)
    for _ in range(chance.choice([1, 2, 5, 10])):
        chance.choice([damage_row, damage_row, damage_pack])(sample, chance)
    sample.store.index.commit()
    sample.store.abandon()
    _repair_and_compare(sample, good)


def _repair_and_compare(sample: Sample, good: Contents) -> None:
    report = repair(sample.path, data=True)
    assert report.after.findings == []
    named = lost_files(report) | {path for each in report.found for path in each.files}
    found = files_of(sample.path)
    for path, data in good.items():
        got = found.get(path)
        assert got == data or path in named, path
        if path in found and got is not None and len(got) == len(data or b""):
            assert got == data, path
    _check_again(sample.path)


def _check_again(path: Path) -> None:
    with Store(path, read_only=True) as store:
        assert check(store, data=True) == []
