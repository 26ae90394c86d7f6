"""The tensors of a file by torch.save, in the zip form that is its default since torch 1.6.

Such a file is a zip archive whose records are not compressed (caffe2/serialize/inline_container.cc
and torch/serialization.py write it)::

    base/data.pkl             the object that was saved; in place of tensors, references to records
    base/byteorder            b"little" or b"big"; older files have none
    base/data/0, data/1, ...  the storages, at multiples of 64
    base/version              of the form

with the file's own name, or `archive`, for `base`. The directory comes last, so a growing file is
not recognised. A storage is a span. Its name, dtype and shape are in the pickle, which is read
without unpickling it (`pickle_scan`): where that fails, names are the records', as in `data/0`, and
elements are bytes.

TorchScript's archives have the same form; their constants are not scanned. Nor are files of torch
before 1.6, which are no zip archives.

Example. `torch.save({"w": weight, "tied": weight, "b": bias})`, with a weight of 2 x 3 floats and a
bias of 3::

    data/0  24 bytes at 512  TensorSpan("w", "F32", (2, 3), 512, 536)
    data/1  12 bytes at 576  TensorSpan("b", "F32", (3,), 576, 588)
"""

import re
from contextlib import suppress
from typing import Final

from modelfs.formats.budget import MemoryBudget
from modelfs.formats.layout import Format, Layout, MalformedModel, ReadAt
from modelfs.formats.torch import pickle_scan, zip_directory
from modelfs.formats.torch.storage import Storages
from modelfs.formats.torch.zip_directory import Entry

_STORAGE: Final = re.compile(rb"data/(0|[1-9][0-9]{0,17})")
PICKLE: Final = b"data.pkl"
VERSION: Final = b"version"
BYTE_ORDER: Final = b"byteorder"
BIG_ENDIAN: Final = b"big"


def begins(head: bytes) -> bool:
    """Return whether a file that begins with these bytes could be one: any zip archive could."""
    return head.startswith(zip_directory.BEGINNING)


def scan(read_at: ReadAt, size: int) -> Layout:
    """Find the storages of a torch archive of `size` bytes.

    Returns:
        Spans in file order. One has the name and shape of the first tensor that views it, if that
        is all of it, and the dimensions in the order of memory.

    Raises:
        MalformedModel: it is none.
    """
    budget = MemoryBudget()
    storages = Storages(budget)
    records = _records(read_at, size, storages)
    if PICKLE not in records or VERSION not in records:
        raise MalformedModel("no archive of torch")
    order = records.get(BYTE_ORDER)
    if order is None or read_at(order.start, len(BIG_ENDIAN)) != BIG_ENDIAN:
        entry = records[PICKLE]
        # A pickle that is not understood costs names. Its storages are spans all the same.
        with suppress(MalformedModel):
            pickle_scan.note_tensors(read_at, entry.start, entry.stop, storages, budget)
    return Layout(Format.TORCH, tuple(storages.spans()))


def _records(read_at: ReadAt, size: int, storages: Storages) -> dict[bytes, Entry]:
    """Add an archive's storages, and return the other records that matter."""
    records: dict[bytes, Entry] = {}
    top = None
    for entry in zip_directory.entries(read_at, size):
        folder, _, name = entry.name.partition(b"/")
        top = folder if top is None else top
        if folder != top or not entry.stored:
            continue
        if (match := _STORAGE.fullmatch(name)) is not None:
            storages.add(int(match[1]), entry.start, entry.stop)
        elif name in (PICKLE, VERSION, BYTE_ORDER):
            if name in records:
                raise MalformedModel(f"two records {name!r}")
            records[name] = entry
    storages.close()
    return records
