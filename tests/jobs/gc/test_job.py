"""Collections and removals, as jobs: a report is right, and a job may end at any step."""

import logging
from typing import Final

import pytest

from modelfs.errors import StoreFull
from modelfs.jobs.check.fsck import check
from modelfs.jobs.drive import run
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL, Collector, Garbage, Portion
from modelfs.jobs.gc.job import OrphanQueue, collect, collect_above
from modelfs.jobs.steps import Hold, Job, Right
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.files import orphans as orphans_module
from modelfs.store.index.tables import ROOT, InodeNumber, PackId, Table, pair_key
from modelfs.store.packs import segment as segment_module
from modelfs.store.store import Store
from tests.support.failing_steps import ALL, COMMITS, Cancelled, FailingStep
from tests.support.run_jobs import collector_of, drain
from tests.support.served_store import Counting, Failing
from tests.support.stores import CHUNK, Box, content_of, model_of, new_file, noise, stored_file

STEPS_MAX: Final = 500
LIVE: Final = {1: 36, 2: 22, 3: 10}  # chunks of each pack, of 40


def pack_of(store: Store, number: int, live: int, dead: int) -> InodeNumber:
    """Store a pack of its own: a file of so many chunks, and garbage. Return the file."""
    if numbers := store.packs.numbers():
        store.packs.seal(max(numbers))
    inode = stored_file(store, b"live%d" % number, noise(live * CHUNK, number))
    gone = stored_file(store, b"dead%d" % number, noise(dead * CHUNK, 1000 + number))
    store.namespace.unlink(ROOT, b"dead%d" % number)
    drain(store.orphans.remove(gone))
    store.commit()
    return inode


@pytest.fixture
def sparse(opened: Store) -> Store:
    """A store of three packs, of which 4, 18 and 30 chunks of 40 are garbage."""
    for number, live in LIVE.items():
        pack_of(opened, number, live, 40 - live)
    assert opened.packs.numbers() == {PackId(1), PackId(2), PackId(3)}
    return opened


def are_whole(store: Store) -> bool:
    """Whether all files of `sparse` have their content."""
    return all(
        content_of(store, store.namespace.lookup(ROOT, b"live%d" % number))
        == noise(live * CHUNK, number)
        for number, live in LIVE.items()
    )


# -- collections


def test_a_report_is_of_this_collection(sparse: Store) -> None:
    """It has the dead chunks of the beginning, the packs rewritten, and the bytes then free."""
    collector = collector_of(sparse)
    before = collector.pack_bytes()
    found = run(collect(sparse, collector, 0.7), sparse)
    freed = before - collector.pack_bytes()
    assert found == Garbage(52, 52 * CHUNK, packs=2, pack_bytes=freed)
    assert 48 * CHUNK <= freed <= 54 * CHUNK
    assert PackId(1) in sparse.packs.numbers()
    assert not {PackId(2), PackId(3)} & sparse.packs.numbers()
    assert run(collect(sparse, collector, 0.7), sparse) == Garbage(0, 0, 0, 0)
    assert are_whole(sparse)


def test_hints_of_removed_files_go_with_a_collection(
    sparse: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection drops stale hints; one that only bounds garbage leaves them."""
    dropped = Counting(Collector.drop_stale_hints)
    monkeypatch.setattr(Collector, "drop_stale_hints", dropped)
    run(collect_above(sparse, collector_of(sparse), 20 * CHUNK), sparse)
    assert dropped.calls == []
    run(collect(sparse, collector_of(sparse)), sparse)
    assert len(dropped.calls) == 1


@pytest.mark.parametrize("count", range(4))
def test_packs_are_rewritten_until_enough_is_free(sparse: Store, count: int) -> None:
    """Before each pack, the cheapest first, it is asked for; dead chunks go in any case."""
    asked = 0

    def enough() -> bool:
        nonlocal asked
        asked += 1
        return asked > count

    found = run(collect(sparse, collector_of(sparse), LIVE_MIN_SMALL, enough), sparse)
    assert found.packs == count
    assert asked == min(count + 1, 3)
    assert {PackId(1), PackId(2), PackId(3)} & sparse.packs.numbers() == {
        PackId(pack) for pack in range(1, 4 - count)
    }
    assert list(sparse.index.pages(Table.DEAD)) == []
    assert are_whole(sparse)


def test_a_pack_without_room_stops_no_other_one(
    sparse: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`StoreFull` for one pack is raised at the end, when all others are rewritten."""
    copy = Collector.copy

    def copy_most(self: Collector, portion: Portion, writer: ChunkWriter) -> WriteResult:
        if any(record.pack == 2 for _, record in portion.chunks):
            raise StoreFull("no room for pack 2")
        return copy(self, portion, writer)

    collector = collector_of(sparse)
    with monkeypatch.context() as patch:
        patch.setattr(Collector, "copy", copy_most)
        with pytest.raises(StoreFull, match="no room for pack 2"):
            run(collect(sparse, collector, LIVE_MIN_SMALL), sparse)
    assert {PackId(1), PackId(2), PackId(3)} & sparse.packs.numbers() == {PackId(2)}
    assert are_whole(sparse)
    assert run(collect(sparse, collector, LIVE_MIN_SMALL), sparse).packs == 1


def test_a_pack_is_rewritten_in_smaller_portions_where_room_is_short(
    opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a copy without room the portions are halved, down to one segment, and none is lost."""
    monkeypatch.setattr(segment_module, "SEGMENT_SIZE", 4 * CHUNK)
    inode = pack_of(opened, 1, 12, 30)
    copy, sizes = Collector.copy, list[tuple[int, bool]]()

    def copy_few(self: Collector, portion: Portion, writer: ChunkWriter) -> WriteResult:
        fits = portion.segments == 1 or len(portion.chunks) <= 4
        sizes.append((portion.segments, fits))
        if not fits:
            raise StoreFull("no room for so many")
        return copy(self, portion, writer)

    monkeypatch.setattr(Collector, "copy", copy_few)
    assert run(collect(opened, collector_of(opened)), opened).packs == 1
    assert sizes[0][1] is False
    assert sum(segments for segments, fits in sizes if fits) == sizes[0][0]
    assert PackId(1) not in opened.packs.numbers()
    assert content_of(opened, inode) == noise(12 * CHUNK, 1)


@pytest.mark.parametrize(
    ("error", "kinds"),
    [(Cancelled(), ALL), (StoreFull("full"), COMMITS)],
    ids=["cancelled", "full"],
)
def test_a_collection_that_ends_at_any_step_loses_nothing(
    sparse: Store,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    kinds: tuple[type, ...],
) -> None:
    """Files read as before, the store is sound, and the next collection does the rest."""
    monkeypatch.setattr("modelfs.store.chunks.publish.SLICE", 10)
    monkeypatch.setattr("modelfs.store.chunks.reclaim.SLICE", 10)
    collector = collector_of(sparse)
    for number in range(STEPS_MAX):
        steps = FailingStep(sparse, number, error, kinds)
        try:
            steps.run(collect(sparse, collector, LIVE_MIN_SMALL))
        except type(error):
            assert steps.reached
        assert check(sparse, data=True) == []
        assert are_whole(sparse)
        if not steps.reached:
            break
        # The next one has something to do, too.
        pack_of(sparse, 100 + number, 1, 3)
    assert 3 < number < STEPS_MAX - 1
    run(collect(sparse, collector, LIVE_MIN_SMALL), sparse)
    assert collector.garbage_bytes(LIVE_MIN_SMALL) == 0


# -- a bound on garbage


@pytest.mark.parametrize(
    ("chunks", "kept"),
    [(58, {1, 2, 3}), (57, {1, 2}), (26, {1, 2}), (25, {1}), (8, {1}), (5, set[int]())],
)
def test_garbage_is_bounded(sparse: Store, chunks: int, kept: set[int]) -> None:
    """Garbage ends at or below the bound, and packs stay that need not be rewritten for it.

    With its tables and padding, the garbage of the packs is 6, 20 and 32 chunks.
    """
    collector = collector_of(sparse)
    run(collect_above(sparse, collector, chunks * CHUNK), sparse)
    assert collector_of(sparse).measured(LIVE_MIN_SMALL).pack_bytes <= chunks * CHUNK
    assert {pack for pack in (1, 2, 3) if PackId(pack) in sparse.packs.numbers()} == kept
    assert are_whole(sparse)


def test_garbage_within_the_bound_takes_no_step(sparse: Store) -> None:
    """Without enough garbage the job asks for no right, reads no pack, and changes no row."""
    collector = collector_of(sparse)
    bound = collector.garbage_bytes(LIVE_MIN_SMALL)
    assert list(collect_above(sparse, collector, bound)) == []
    assert len(list(sparse.index.pages(Table.DEAD))) == 52


def test_tables_and_padding_are_no_reason_to_collect(opened: Store) -> None:
    """Packs that only seem to have garbage are measured, and stay as they are."""
    stored_file(opened, b"model", model_of(*(noise(160, number) for number in range(400))))
    before = dict(opened.reclaimer.packs())
    collector = collector_of(opened)
    bound = collector.garbage_bytes(LIVE_MIN_SMALL)
    assert bound > 0
    run(collect_above(opened, collector, bound - 1), opened)
    assert collector.garbage_bytes(LIVE_MIN_SMALL) == 0
    assert dict(opened.reclaimer.packs()) == before


def test_nothing_is_collected_while_packs_are_pinned(sparse: Store) -> None:
    """The job wants the right that is refused while a reader has packs pinned, and then ends."""
    before = sparse.packs.numbers(), list(sparse.index.pages(Table.DEAD))
    job = collect_above(sparse, collector_of(sparse), 0)
    step = next(job)
    assert isinstance(step, Hold)
    assert step.right is Right.UNLESS_PINNED
    with pytest.raises(StopIteration):
        job.send(None)
    assert (sparse.packs.numbers(), list(sparse.index.pages(Table.DEAD))) == before
    assert sparse.index.dirty is False


# -- the queue of orphans


def orphans(store: Store, count: int, size: int = 3 * CHUNK) -> list[InodeNumber]:
    """Store files and remove their names."""
    inodes = []
    for number in range(count):
        inodes.append(stored_file(store, b"%d" % number, noise(size, number)))
        store.namespace.unlink(ROOT, b"%d" % number)
    store.commit()
    return inodes


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each extent of a removal be a slice."""
    monkeypatch.setattr(orphans_module, "SLICE", 1)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize(
    ("error", "kinds", "count"),
    [
        (Cancelled(), ALL, 8),  # two rights, and three slices for each inode
        (StoreFull("full"), COMMITS, 6),
        (OSError(5, "broken"), COMMITS, 6),
    ],
    ids=["cancelled", "full", "broken"],
)
def test_a_removal_that_is_not_done_stays_queued(
    opened: Store, error: BaseException, kinds: tuple[type, ...], count: int
) -> None:
    """Ended at any step, the job raises, and a later one removes the inodes that are left."""
    for number in range(count):
        queue = OrphanQueue(opened, orphans(opened, 2))
        steps = FailingStep(opened, number, error, kinds)
        with pytest.raises(type(error)):
            steps.run(queue.remove())
        assert opened.orphans.inodes() != []
        assert check(opened, data=True) == []
        run(queue.remove(), opened)
        assert opened.orphans.inodes() == []
    steps = FailingStep(opened, count, error, kinds)
    steps.run(OrphanQueue(opened, orphans(opened, 2)).remove())
    assert not steps.reached


def test_a_damaged_inode_leaves_the_queue(opened: Store, caplog: pytest.LogCaptureFixture) -> None:
    """An orphan with a damaged row stops no other one; it is left to the next open, and logged."""
    first, second = orphans(opened, 2)
    key = pair_key(first, CHUNK)
    good = opened.index.get(Table.EXTENTS, key)
    assert good is not None
    with opened.index.change():
        opened.index.put(Table.EXTENTS, key, b"junk!")
    queue = OrphanQueue(opened, [first, second])
    run(queue.remove(), opened)
    assert opened.orphans.inodes() == [first]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert f"(inode {first})" in caplog.text
    caplog.clear()
    run(queue.remove(), opened)
    assert caplog.records == []
    with opened.index.change():
        opened.index.put(Table.EXTENTS, key, good)
    run(queue.remove(), opened)
    assert opened.orphans.inodes() == [first]
    run(OrphanQueue(opened, opened.orphans.inodes()).remove(), opened)
    assert opened.orphans.inodes() == []


def test_a_bug_is_raised_once(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that no store raises reaches the caller, and the inode is not tried again."""
    first, second = orphans(opened, 2)
    queue = OrphanQueue(opened, [first, second])
    with monkeypatch.context() as patch:
        patch.setattr(opened.orphans, "remove", Failing(opened.orphans.remove, KeyError("bug")))
        with pytest.raises(KeyError):
            run(queue.remove(), opened)
        run(queue.remove(), opened)
    assert opened.orphans.inodes() == [first]


@pytest.mark.usefixtures("slices")
def test_a_removal_is_announced_once(opened: Store) -> None:
    """`before_removal` is called once for an inode, with the right to append and all its rows."""
    inodes = orphans(opened, 3)
    announced: list[InodeNumber] = []

    def before(inode: InodeNumber) -> None:
        assert len(list(opened.maps.overlapping(inode, 0, 3 * CHUNK))) == 3
        announced.append(inode)

    queue = OrphanQueue(opened, inodes[:1], before)
    queue.add(reversed(inodes))  # the first is queued already
    jobs: list[Job[None]] = [queue.remove(), queue.remove()]
    holds = [next(job) for job in jobs]
    assert announced == []
    for hold in holds:
        assert isinstance(hold, Hold)
        assert hold.right is Right.APPEND
        run(hold.job, opened)
        # That of the second job, which waited for the right, has nothing left to do.
        assert announced == inodes[:1]
    run(send_none(jobs[1]), opened)
    assert announced == [inodes[0], inodes[2], inodes[1]]
    run(send_none(jobs[0]), opened)
    assert len(announced) == 3
    assert opened.orphans.inodes() == []


def send_none(job: Job[None]) -> Job[None]:
    """Go on with a job whose step is done."""
    try:
        yield job.send(None)
    except StopIteration:
        return
    yield from job


def test_a_queue_may_get_more_while_it_is_emptied(opened: Store) -> None:
    """Inodes that are added during a removal are removed by the same job."""
    inodes = orphans(opened, 3)
    queue: OrphanQueue

    def add(inode: InodeNumber) -> None:
        if inode == inodes[0]:
            queue.add(inodes[1:])

    queue = OrphanQueue(opened, inodes[:1], add)
    run(queue.remove(), opened)
    assert opened.orphans.inodes() == []


def test_an_inode_with_a_name_is_left_alone(opened: Store) -> None:
    """An inode that has a name by now loses nothing, and leaves the queue."""
    inode = stored_file(opened, b"named", noise(CHUNK))
    queue = OrphanQueue(opened, [inode])
    run(queue.remove(), opened)
    assert content_of(opened, inode) == noise(CHUNK)
    opened.namespace.unlink(ROOT, b"named")
    run(queue.remove(), opened)
    assert opened.orphans.inodes() == [inode]


def test_staged_bytes_of_orphans_go(box: Box) -> None:
    """The staging files of a removed inode are deleted with the next commit."""
    inode = new_file(box.store, b"staged", noise(CHUNK))
    box.store.flush(inode)
    box.store.namespace.unlink(ROOT, b"staged")
    run(OrphanQueue(box.store, [inode]).remove(), box.store)
    box.store.commit()
    assert list(box.store.staging.directory.path.iterdir()) == []
