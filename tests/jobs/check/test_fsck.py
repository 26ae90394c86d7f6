"""The checker: one damage, one finding, and none for what a crash may leave."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from modelfs.codecs.base import CodecId
from modelfs.jobs.check.findings import Severity
from modelfs.jobs.check.fsck import check, fsck
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.counters import (
    FILES,
    NEXT_CHUNK,
    NEXT_COOKIE,
    NEXT_INODE,
    NEXT_PACK,
    SHARED,
)
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import FORMAT_VERSION, SUPERBLOCK, Dentry, Extent, StagedWindow
from modelfs.store.index.tables import (
    ROOT,
    ChunkId,
    InodeNumber,
    Table,
    number_key,
    number_of,
    pair_key,
    triple_key,
)
from modelfs.store.packs.segment import PAGE
from tests.support.sample_store import (
    BASE,
    CHUNK,
    LORA,
    ONNX,
    PACK,
    QUERY,
    SHARERS,
    WORDS,
    Sample,
    fill,
)
from tests.support.stores import FOLDER, ME, new_file, new_store, noise, overwrite, pack_path

# -- soundness


def test_a_sound_store_gives_no_finding(sample: Sample) -> None:
    """A store with orphans, dead chunks, staged ranges and a truncation under way is sound."""
    for table in Table:
        assert list(sample.store.index.pages(table)), table
    assert sample.findings() == []


def test_an_open_store_is_checked_as_it_is(sample: Sample) -> None:
    """A store that is open for writing is checked with what no commit has made durable yet."""
    new_file(sample.store, b"new")
    assert check(sample.store, data=True) == []
    sample.put(Table.ORPHANS, number_key(1000), b"")
    assert [each.invariant for each in check(sample.store)] == ["orphan"]
    sample.store.abandon()


def test_the_report_counts_what_was_looked_at(sample: Sample) -> None:
    """With `data`, every stored byte that a file uses is read, and progress ends at all of them."""
    calls: list[tuple[int, int]] = []
    report = fsck(sample.store, data=True, progress=lambda done, total: calls.append((done, total)))
    live = sample.row().live
    assert (report.findings, report.bytes_checked, calls[-1]) == ([], live, (live, live))
    assert report.files == sample.store.counters.get(FILES)
    sample.store.abandon()


def test_without_data_progress_is_in_invariants(sample: Sample) -> None:
    """Without `data`, progress goes up by one for each invariant, and ends when all are done."""
    calls: list[tuple[int, int]] = []
    report = fsck(sample.store, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
    assert report.bytes_checked == 0
    sample.store.abandon()


def test_a_truncation_under_way_is_sound(sample: Sample) -> None:
    """Extents behind a truncation may be there for as long as a row says where it is."""
    assert sample.node(sample.cut).size == 10
    assert list(sample.store.maps.overlapping(sample.cut, CHUNK, 2 * CHUNK))
    assert sample.findings() == []


def test_unmentioned_files_are_sound(sample: Sample) -> None:
    """A crash may leave packs and staging files that no row mentions."""
    pack_path(sample.store.packs, 99).write_bytes(b"half a pack")
    (sample.store.staging.folder / "63-0-63").write_bytes(b"half a window")
    assert sample.findings() == []


def test_a_pack_may_be_longer_than_its_row(sample: Sample) -> None:
    """A crash may leave bytes behind the committed part of a pack."""
    with sample.pack.open("ab") as file:
        file.write(noise(1000))
    assert sample.findings() == []


# -- rows


ANY_VALUE: Final = {Table.SYMLINKS, Table.XATTRS}  # whatever bytes are their value


@pytest.mark.parametrize("table", [table for table in Table if table not in ANY_VALUE])
def test_a_row_that_does_not_decode_is_found_once(sample: Sample, table: Table) -> None:
    """Damage that makes a value unreadable is reported as that, and not as what follows of it."""
    key, _ = next(sample.store.index.pages(table))
    sample.put(table, key, b"junk!")
    (found,) = sample.findings(data=False)
    assert found.invariant == "row"
    assert key[:32].hex() in found.message


def test_an_unreadable_directory_is_found_once(sample: Sample) -> None:
    """The link count of a directory that may have one more subdirectory is not called wrong."""
    sample.put(Table.INODES, number_key(sample.folder), b"junk!")
    (found,) = sample.findings(data=False)
    assert found.invariant == "row"


def test_a_total_that_does_not_decode_is_found_once(sample: Sample) -> None:
    """Damage to a total keeps nothing from being checked, nor the files from being counted."""
    files = sample.store.counters.get(FILES)
    sample.put(Table.META, FILES, b"junk!")
    report = fsck(sample.store)
    assert ([each.invariant for each in report.findings], report.files) == (["row"], files)
    sample.store.abandon()


@pytest.mark.parametrize("table", Table)
def test_a_key_that_does_not_decode_is_found(sample: Sample, table: Table) -> None:
    """A row whose key no modelfs has made is reported; the store can still be read."""
    sample.put(table, b"\0", b"value")
    assert sample.finding() == ("row", (), ())


def test_a_damaged_chunk_record_names_whom_it_hurts(sample: Sample) -> None:
    """A chunk record that does not decode names the files and tensors that lie in the chunk."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put(Table.CHUNKS, number_key(chunk), b"junk!")
    (found,) = sample.findings()
    assert (found.invariant, found.files, found.tensors) == ("row", SHARERS, (WORDS,))


def test_a_missing_superblock_is_found(sample: Sample) -> None:
    """An index without a superblock is reported, in a store that is open."""
    sample.delete(Table.META, SUPERBLOCK)
    assert [each.invariant for each in check(sample.store)] == ["superblock"]
    sample.store.abandon()


def test_a_superblock_of_another_format_is_found(sample: Sample) -> None:
    """The superblock's format version is that of the store."""
    block = dataclasses.replace(sample.store.superblock, version=FORMAT_VERSION + 1)
    sample.put(Table.META, SUPERBLOCK, block.to_bytes())
    assert sample.finding() == ("superblock", (), ())


@pytest.mark.parametrize("counter", [NEXT_INODE, NEXT_CHUNK, NEXT_PACK])
def test_a_counter_behind_is_found(sample: Sample, counter: bytes) -> None:
    """A counter that would hand out a number in use is reported."""
    sample.count(counter, 1)
    assert sample.finding() == ("counter", (), ())


@pytest.mark.parametrize(
    ("table", "rest", "value"),
    [
        (Table.XATTRS, b"user.x", b""),
        (Table.PENDING, b"", number_key(1)),
        (Table.TRIMS, b"", number_key(0)),
        (Table.TENSORS, bytes(12), b"\1" + bytes(9)),
    ],
)
def test_rows_of_no_inode_are_found(
    sample: Sample, table: Table, rest: bytes, value: bytes
) -> None:
    """What belongs to an inode that does not exist is reported."""
    sample.put(table, number_key(1000) + rest, value)
    assert sample.finding() == ("row-inode", (), ())


def test_content_rows_of_a_directory_are_found(sample: Sample) -> None:
    """What only a regular file can have is reported where a directory has it."""
    sample.put(Table.TENSORS, number_key(sample.folder) + bytes(12), b"\1" + bytes(9))
    assert sample.finding() == ("row-inode", (), ())


@pytest.mark.parametrize("name", [FILES, SHARED, b"form.zstd.stored_bytes"])
def test_a_wrong_total_is_found(sample: Sample, name: bytes) -> None:
    """A total that is not the sum of what it counts is reported, as an account."""
    sample.count(name, 12345)
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("total", Severity.ACCOUNT)


def test_the_total_of_a_form_that_nothing_has_is_found(sample: Sample) -> None:
    """What is counted of a stored form in which there is no chunk is zero."""
    sample.count(b"form.strange.chunks", 1)
    assert sample.finding() == ("total", (), ())


# -- staging files


def test_a_missing_staging_file_is_found(sample: Sample) -> None:
    """A staged window whose file is gone names the file that lost bytes."""
    sample.window.unlink()
    assert sample.finding() == ("window", (b"/staged",), ())


def test_a_short_staging_file_is_found(sample: Sample) -> None:
    """A staging file that ends before its durable ranges do names the file that lost bytes."""
    with sample.window.open("r+b") as file:
        file.truncate(50)
    assert sample.finding() == ("window", (b"/staged",), ())


def test_a_window_with_ranges_of_another_is_found(sample: Sample) -> None:
    """A staged window has no ranges outside its bounds."""
    key, value = next(sample.store.index.pages(Table.STAGED))
    row = StagedWindow(StagedWindow.from_bytes(value).generation, RangeSet([(1 << 40, 2 << 40)]))
    sample.put(Table.STAGED, key, row.to_bytes())
    assert sample.finding() == ("window", (b"/staged",), ())


# -- names


def test_a_missing_listing_line_is_found(sample: Sample) -> None:
    """A name that look-ups find and listings do not is reported by its path."""
    cookie = sample.dentry(sample.folder, b"text").cookie
    sample.delete(Table.LISTING, pair_key(sample.folder, cookie))
    assert sample.finding() == ("names-agree", (b"/folder/text",), ())


def test_a_missing_dentry_is_found(sample: Sample) -> None:
    """A name that listings have and look-ups do not find is reported by its path."""
    sample.delete(Table.DENTRIES, number_key(sample.folder) + b"text")
    assert sample.finding() == ("names-agree", (b"/folder/text",), ())


def test_a_missing_way_back_is_found(sample: Sample) -> None:
    """A name without a row at its inode is reported by its path."""
    cookie = sample.dentry(sample.folder, b"text").cookie
    sample.delete(Table.PARENTS, triple_key(sample.text, sample.folder, cookie))
    assert sample.finding() == ("names-agree", (b"/folder/text",), ())


def test_a_way_back_to_no_name_is_found(sample: Sample) -> None:
    """A name that only the inode knows of is reported by the path that it does have."""
    sample.put(Table.PARENTS, triple_key(sample.text, ROOT, 1000), b"")
    assert sample.finding() == ("names-agree", (b"/folder/text",), ())


def name(sample: Sample, folder: InodeNumber, name: bytes, inode: InodeNumber, cookie: int) -> None:
    """Put the three rows of a name, whatever it leads to."""
    sample.put(Table.DENTRIES, number_key(folder) + name, Dentry(inode, cookie).to_bytes())
    sample.put(Table.LISTING, pair_key(folder, cookie), inode.to_bytes(8, "little") + name)
    sample.put(Table.PARENTS, triple_key(inode, folder, cookie), b"")


def new_cookie(sample: Sample) -> int:
    with sample.store.index.change():
        return sample.store.counters.allocate(NEXT_COOKIE)


def test_a_name_that_leads_nowhere_is_found(sample: Sample) -> None:
    """A name of an inode that does not exist is reported by its path."""
    name(sample, sample.folder, b"lost", InodeNumber(1000), new_cookie(sample))
    assert sample.finding() == ("name-inode", (b"/folder/lost",), ())


def test_a_name_in_a_file_is_found(sample: Sample) -> None:
    """A name in an inode that is no directory is reported by its path."""
    name(sample, sample.text, b"odd", sample.staged, new_cookie(sample))
    assert sample.finding() == ("name-folder", (b"/folder/text/odd",), ())


def test_a_cookie_that_was_never_handed_out_is_found(sample: Sample) -> None:
    """A name at a cookie above the counter is reported by its path."""
    sample.put_node(dataclasses.replace(sample.node(sample.text), nlink=2))
    name(sample, ROOT, b"text", sample.text, 1000)
    assert sample.finding() == ("cookie", (b"/text",), ())


def test_a_cookie_used_twice_is_found(sample: Sample) -> None:
    """Two names at one cookie, in whatever directories, are reported by the second's path."""
    sample.put_node(dataclasses.replace(sample.node(sample.text), nlink=2))
    name(sample, sample.folder, b"more", sample.text, sample.dentry(ROOT, b"staged").cookie)
    assert sample.finding() == ("cookie", (b"/folder/more",), ())


@pytest.mark.parametrize("which", ["text", "folder"])
def test_a_wrong_link_count_is_found(sample: Sample, which: str) -> None:
    """A link count that is not the number of names is reported, of files and directories."""
    inode = {"text": sample.text, "folder": sample.folder}[which]
    sample.put_node(dataclasses.replace(sample.node(inode), nlink=7))
    files = (b"/folder/text",) if which == "text" else (b"/folder",)
    assert sample.finding() == ("link-count", files, ())


def test_a_nameless_inode_is_found(sample: Sample) -> None:
    """An inode without a name that is no orphan either is reported by its number."""
    sample.put_node(dataclasses.replace(sample.node(sample.orphan), nlink=1))
    sample.delete(Table.ORPHANS, number_key(sample.orphan))
    assert sample.finding() == ("nameless", (b"(inode %d)" % sample.orphan,), ())


def test_a_file_with_a_parent_is_found(sample: Sample) -> None:
    """Only directories have a parent."""
    sample.put_node(dataclasses.replace(sample.node(sample.text), parent=sample.folder))
    assert sample.finding() == ("parent", (b"/folder/text",), ())


def test_a_directory_elsewhere_than_its_parent_is_found(sample: Sample) -> None:
    """A directory whose record names another parent than the one it lies in is reported."""
    other = sample.store.namespace.create(ROOT, b"other", FOLDER, ME).inode
    sample.put_node(dataclasses.replace(sample.node(other), nlink=3))
    sample.put_node(dataclasses.replace(sample.node(ROOT), nlink=3))
    sample.put_node(dataclasses.replace(sample.node(sample.folder), parent=other))
    assert sample.finding() == ("parent", (b"/folder",), ())


def test_a_circle_of_directories_is_found(sample: Sample) -> None:
    """A branch of directories that does not lead to the root is reported once."""
    outer = sample.store.namespace.create(ROOT, b"outer", FOLDER, ME).inode
    inner = sample.store.namespace.create(outer, b"inner", FOLDER, ME).inode
    cookie = sample.dentry(ROOT, b"outer").cookie
    sample.delete(Table.DENTRIES, number_key(ROOT) + b"outer")
    sample.delete(Table.LISTING, pair_key(ROOT, cookie))
    sample.delete(Table.PARENTS, triple_key(outer, ROOT, cookie))
    name(sample, inner, b"outer", outer, cookie)
    sample.put_node(dataclasses.replace(sample.node(ROOT), nlink=3))
    sample.put_node(dataclasses.replace(sample.node(outer), parent=inner))
    sample.put_node(dataclasses.replace(sample.node(inner), nlink=3))
    assert sample.finding()[0] == "tree"


def test_an_orphan_with_a_name_is_found(sample: Sample) -> None:
    """A file that is listed for removal though it has a name is reported."""
    sample.put(Table.ORPHANS, number_key(sample.text), b"")
    assert sample.finding() == ("orphan", (b"/folder/text",), ())


def test_an_unlisted_orphan_is_found(sample: Sample) -> None:
    """An inode without a link that nothing would ever remove is reported by its number."""
    sample.delete(Table.ORPHANS, number_key(sample.orphan))
    assert sample.finding() == ("orphan", (b"(inode %d)" % sample.orphan,), ())


def test_an_orphan_that_does_not_exist_is_found(sample: Sample) -> None:
    """An inode that is listed for removal exists."""
    sample.put(Table.ORPHANS, number_key(1000), b"")
    assert sample.finding() == ("orphan", (), ())


def test_a_link_without_a_target_is_found(sample: Sample) -> None:
    """A symbolic link that leads nowhere at all is reported by its path."""
    sample.delete(Table.SYMLINKS, number_key(sample.link))
    assert sample.finding() == ("symlink", (b"/folder/link",), ())


def test_a_target_of_another_size_is_found(sample: Sample) -> None:
    """A symbolic link's target is as long as its size says."""
    sample.put(Table.SYMLINKS, number_key(sample.link), b"elsewhere")
    assert sample.finding() == ("symlink", (b"/folder/link",), ())


def test_a_target_of_a_file_is_found(sample: Sample) -> None:
    """Nothing but a symbolic link has a target."""
    sample.put(Table.SYMLINKS, number_key(sample.text), b"target")
    assert sample.finding() == ("symlink", (b"/folder/text",), ())


# -- file maps


def found_first(sample: Sample) -> tuple[str, tuple[bytes, ...], tuple[str, ...]]:
    """Return the first finding, where the same damage spoils the counts as well."""
    first, *others = sample.findings()
    assert {each.invariant for each in others} <= {"chunk-uses", "dead", "total"}
    return first.invariant, first.files, first.tensors


def test_an_extent_in_a_directory_is_found(sample: Sample) -> None:
    """Content of an inode that is no regular file is reported by its path."""
    chunk, _ = sample.chunk_at(sample.text, 0)
    directory = dataclasses.replace(sample.node(sample.folder), size=100)
    sample.put_node(directory)
    with sample.store.index.change():
        sample.store.maps.replace(sample.folder, 0, 1, [Extent(0, chunk, 0, 1)])
    assert sample.finding() == ("extent-file", (b"/folder",), ())


def test_an_extent_in_no_chunk_is_found(sample: Sample) -> None:
    """An extent whose chunk does not exist names the file and the tensor that lie there."""
    extent = sample.extents(sample.base)[1]
    sample.put_extent(sample.base, dataclasses.replace(extent, chunk=ChunkId(1000)))
    assert found_first(sample) == ("extent-chunk", (BASE,), (WORDS,))


def test_an_extent_past_its_chunk_is_found(sample: Sample) -> None:
    """An extent that reaches past the end of its chunk is reported."""
    extent = sample.extents(sample.base)[1]
    sample.put_extent(sample.base, dataclasses.replace(extent, skip=1))
    assert sample.finding() == ("extent-inside", (BASE,), (WORDS,))


def test_overlapping_extents_are_found(sample: Sample) -> None:
    """Two extents for the same byte of a file are reported once."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put_extent(sample.base, Extent(1000, chunk, 0, 8))
    assert found_first(sample) == ("extent-overlap", (BASE,), (WORDS,))


def test_an_extent_past_the_size_is_found(sample: Sample) -> None:
    """Content past a file's end that no truncation explains is reported."""
    sample.delete(Table.TRIMS, number_key(sample.cut))
    found = sample.findings()
    assert {(each.invariant, each.files) for each in found} == {("extent-size", (b"/cut",))}


# -- chunks


@pytest.mark.parametrize(("uses", "severity"), [(2, Severity.DAMAGE), (4, Severity.ACCOUNT)])
def test_a_wrong_use_count_is_found(sample: Sample, uses: int, severity: Severity) -> None:
    """A use count that the extents do not add up to is damage if it is too low."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    assert record.refs == len(SHARERS)
    sample.put_chunk(chunk, dataclasses.replace(record, refs=uses))
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("chunk-uses", severity)


def test_a_used_chunk_that_is_listed_as_dead_is_found(sample: Sample) -> None:
    """A chunk that gc would remove though a file needs it is damage."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put(Table.DEAD, number_key(chunk), b"")
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("dead", Severity.DAMAGE)


def test_an_unused_chunk_that_is_not_listed_as_dead_is_found(sample: Sample) -> None:
    """A chunk that gc would never remove is an account."""
    key, _ = next(sample.store.index.pages(Table.DEAD))
    sample.delete(Table.DEAD, key)
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("dead", Severity.ACCOUNT)


def test_a_dead_chunk_that_does_not_exist_is_found(sample: Sample) -> None:
    """What is listed as dead has a record."""
    sample.put(Table.DEAD, number_key(1000), b"")
    assert sample.finding() == ("dead", (), ())


def test_a_chunk_that_its_hash_does_not_find_is_found(sample: Sample) -> None:
    """A chunk that equal content would not be shared with is reported."""
    _, record = sample.chunk_at(sample.base, 1000)
    sample.delete(Table.HASHES, record.digest)
    assert sample.finding() == ("hash", (), ())


def test_a_hash_that_finds_another_chunk_is_found(sample: Sample) -> None:
    """A hash leads only to chunks that have it."""
    chunk, _ = sample.chunk_at(sample.base, 1000)
    sample.put(Table.HASHES, bytes(16), number_key(chunk))
    assert sample.finding() == ("hash", (), ())


IMPOSSIBLE: Final[dict[str, Callable[[Chunk], Chunk]]] = {
    "too large": lambda record: dataclasses.replace(record, size=CHUNK + 1),
    "plain and coded": lambda record: dataclasses.replace(record, codec=CodecId.ZSTD),
    "plain and smaller": lambda record: dataclasses.replace(record, stored=record.stored - 1),
}


@pytest.mark.parametrize("change", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_form_is_found(sample: Sample, change: Callable[[Chunk], Chunk]) -> None:
    """A chunk record that contradicts itself names the files and tensors that lie in the chunk."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.put_chunk(chunk, change(record))
    found = sample.findings(data=False)[0]
    assert (found.invariant, found.files, found.tensors) == ("chunk-form", SHARERS, (WORDS,))


# -- packs


def test_a_flipped_bit_is_found_by_reading(sample: Sample) -> None:
    """A damaged byte of a chunk names the files that share it, and only the tensors in it."""
    _, record = sample.chunk_at(sample.base, 1000)
    byte = sample.store.packs.read(PACK, record.offset, 1)
    overwrite(sample.pack, record.offset, bytes([byte[0] ^ 1]))
    assert sample.finding() == ("content", SHARERS, (WORDS,))


def test_damage_in_one_model_is_not_blamed_on_the_other(sample: Sample) -> None:
    """A damaged byte in the tensor that two models do not share names one of them."""
    _, record = sample.chunk_at(sample.base, 500_000)
    overwrite(sample.pack, record.offset, b"damaged")
    assert sample.finding() == ("content", (BASE,), (QUERY,))


def test_a_damaged_coded_chunk_is_found(sample: Sample) -> None:
    """A damaged byte of compressed text names the file."""
    _, record = sample.chunk_at(sample.text, 0)
    assert record.codec is CodecId.ZSTD
    overwrite(sample.pack, record.offset + 5, b"damaged")
    assert sample.finding() == ("content", (b"/folder/text",), ())


def test_damage_to_what_nothing_uses_is_no_finding(sample: Sample) -> None:
    """A damaged byte of a dead chunk is no finding."""
    key, _ = next(sample.store.index.pages(Table.DEAD))
    record = sample.store.chunks.record(ChunkId(number_of(key)))
    overwrite(sample.pack, record.offset, b"damaged")
    assert sample.findings() == []


def test_a_wrong_hash_is_found_by_reading(sample: Sample) -> None:
    """Content that is not what its chunk's hash says is reported, though its checksum is right."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.delete(Table.HASHES, record.digest)
    sample.put(Table.HASHES, bytes(16), number_key(chunk))
    sample.put_chunk(chunk, dataclasses.replace(record, digest=bytes(16)))
    assert sample.finding() == ("content", SHARERS, (WORDS,))


def test_a_missing_pack_is_found(sample: Sample) -> None:
    """A pack that is gone is one finding, which names every file in it."""
    sample.pack.unlink()
    invariant, files, tensors = sample.finding()
    assert invariant == "pack-file"
    assert {BASE, LORA, b"/folder/text", ONNX} <= set(files)
    assert {WORDS, QUERY} <= set(tensors)


def test_a_pack_of_another_store_is_found(sample: Sample, tmp_path: Path) -> None:
    """A pack in the place of another is recognised by its header."""
    path = new_store(tmp_path, chunk_size=CHUNK)
    fill(path)
    other = Sample(path)
    other.pack.replace(sample.pack)
    other.store.abandon()
    assert sample.finding()[0] == "pack-file"


def test_a_short_pack_names_what_was_behind(sample: Sample) -> None:
    """A pack that was cut names the files behind the cut, and no tensor before it."""
    _, record = sample.chunk_at(sample.base, 500_000)
    with sample.pack.open("r+b") as file:
        file.truncate(record.offset)
    invariant, files, tensors = sample.finding()
    assert (invariant, BASE in files) == ("pack-file", True)
    assert (QUERY in tensors, WORDS in tensors) == (True, False)


def test_a_chunk_in_an_unknown_pack_is_found(sample: Sample) -> None:
    """Chunks in a pack that the index does not have are one finding."""
    sample.delete(Table.PACKS, number_key(PACK))
    invariant, files, _ = sample.finding()
    assert (invariant, BASE in files) == ("place", True)


def test_a_chunk_behind_the_committed_part_is_found(sample: Sample) -> None:
    """A chunk in the part of a pack that the index does not vouch for names whom it hurts."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    moved = dataclasses.replace(record, offset=sample.row().stop - 1)
    sample.put_chunk(chunk, moved)
    found = sample.findings(data=False)[0]
    assert (found.invariant, found.files, found.tensors) == ("place", SHARERS, (WORDS,))


def test_overlapping_chunks_are_found(sample: Sample) -> None:
    """Two chunks at the same place are reported, with whom the second hurts."""
    first, record = sample.chunk_at(sample.base, 1000)
    second, _ = sample.chunk_at(sample.base, 500_000)
    assert first < second
    sample.put_chunk(
        second, dataclasses.replace(sample.store.chunks.record(second), offset=record.offset + 1)
    )
    found = sample.findings(data=False)[0]
    assert (found.invariant, found.files) == ("place", (BASE,))


def test_a_damaged_segment_table_is_found(sample: Sample) -> None:
    """Damage to what a pack says of itself is an account: every file still reads right."""
    overwrite(sample.pack, PAGE + 24, b"damaged")
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("segment", Severity.ACCOUNT)


def test_a_segment_table_that_tells_otherwise_is_found(sample: Sample) -> None:
    """A record that a pack's own tables contradict names whom it hurts."""
    chunk, record = sample.chunk_at(sample.base, 1000)
    sample.put_chunk(chunk, dataclasses.replace(record, checksum=record.checksum ^ 1))
    (found,) = sample.findings(data=False)
    assert (found.invariant, found.files) == ("segment-chunk", SHARERS)


@pytest.mark.parametrize(("difference", "severity"), [(-1, "damage"), (1, "account")])
def test_wrong_live_bytes_are_found(sample: Sample, difference: int, severity: str) -> None:
    """A pack's live bytes that are not those of its used chunks are damage if too few."""
    row = sample.row()
    sample.put_row(dataclasses.replace(row, live=row.live + difference))
    (found,) = sample.findings()
    assert (found.invariant, found.severity) == ("pack-live", severity)
