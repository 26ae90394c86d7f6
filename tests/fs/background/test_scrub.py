"""The scrub of a mounted store: for commands, in the background, stopped and continued."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from modelfs.fs.background.scrub import BackgroundScrub
from modelfs.jobs.scrub.scrubber import Scrubber
from tests.support.served_store import Follower, Served, cancelled_at
from tests.support.stores import CHUNK, noise, overwrite, pack_path

FILES = 6
FAST = 1 << 40


@pytest.fixture
async def filled(served: Served) -> Served:
    """A store with a few files, each in a segment of its own."""
    for number in range(FILES):
        await served.chunked(b"%d" % number, noise(CHUNK, number))
    return served


async def test_followed(filled: Served, nursery: trio.Nursery) -> None:
    """`follow` reports progress, and returns at the end."""
    scrubbing = filled.background.scrub
    nursery.start_soon(scrubbing.run)
    follower = Follower()
    scrubbing.begin()
    await scrubbing.follow(follower)
    assert follower.progress == sorted(follower.progress)
    report = await scrubbing.report()
    assert (report["chunks"], report["running"], report["findings"]) == (FILES, False, [])
    assert report["ended_ns"]


async def test_paused(filled: Served, nursery: trio.Nursery) -> None:
    """A stopped scrub keeps its position, and continues there."""
    scrubbing = filled.background.scrub
    nursery.start_soon(scrubbing.run)
    scrubbing.begin(rate=1)  # a byte per second: after the first segment it rests for an hour
    async with trio.open_nursery() as followers:
        follower = Follower()
        followers.start_soon(scrubbing.follow, follower)
        await until_checked(scrubbing, Scrubber(filled.store), 1)
        scrubbing.pause()
    report = await scrubbing.report()
    assert (report["chunks"], report["running"], report["rate"]) == (1, False, 0)
    scrubbing.begin()
    await scrubbing.follow(Follower())
    assert (await scrubbing.report())["chunks"] == FILES


async def test_faster(filled: Served, nursery: trio.Nursery) -> None:
    """A new rate ends a rest."""
    scrubbing = filled.background.scrub
    nursery.start_soon(scrubbing.run)
    scrubbing.begin(rate=1)
    await until_checked(scrubbing, Scrubber(filled.store), 1)
    scrubbing.begin(rate=FAST)
    await scrubbing.follow(Follower())
    assert (await scrubbing.report())["chunks"] == FILES


async def test_goes_on_after_a_remount(filled: Served, nursery: trio.Nursery) -> None:
    """The next daemon continues a scrub in the background, and not a command's."""
    for rate, running in ((FAST, True), (0, False)):
        Scrubber(filled.store).begin(rate=rate)
        after = BackgroundScrub(filled.context())
        after.start()
        assert after.running is running
    nursery.start_soon(after.run)
    await wait_all_tasks_blocked()
    assert Scrubber(filled.store).status().chunks == 0


async def test_damage_is_logged(
    filled: Served, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged block is an error in the log, with the file that it affects."""
    inode = await filled.looked_up(b"3")
    record = filled.store.chunks.record(next(filled.store.maps.overlapping(inode, 0, 1)).chunk)
    path = pack_path(filled.store.packs, record.pack)
    overwrite(path, record.offset, b"rotten")
    scrubbing = filled.background.scrub
    nursery.start_soon(scrubbing.run)
    scrubbing.begin()
    await scrubbing.follow(Follower())
    assert caplog.messages[-1].endswith("; files: /3")
    assert "do not match their checksum" in caplog.text
    caplog.clear()
    assert [each["files"] for each in (await scrubbing.report())["findings"]] == [["/3"]]
    overwrite(path, record.offset, noise(CHUNK, 3)[:6])


async def test_damage_is_logged_although_the_daemon_ends(
    filled: Served, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """A scrub that is cancelled at any checkpoint has logged the damage that it has passed."""
    path = pack_path(filled.store.packs, 1)
    header = path.read_bytes()[:8]
    overwrite(path, 0, b"damaged!")
    is_over = False
    number = 0
    while not is_over:
        scrubbing = BackgroundScrub(filled.context())
        scrubbing.begin(restart=True)
        with cancelled_at(number):
            await scrubbing.run()
        is_over = not scrubbing.running
        after = BackgroundScrub(filled.context())
        after.begin()
        nursery.start_soon(after.run)
        await after.follow(Follower())
        assert "header is damaged" in caplog.text, number
        caplog.clear()
        number += 1
    assert number > 1
    overwrite(path, 0, header)


async def test_a_bug_ends_the_scrub_only(
    filled: Served,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug is raised by `follow`, and the next scrub works."""
    scrubbing = filled.background.scrub
    nursery.start_soon(scrubbing.run)
    with monkeypatch.context() as patch:
        patch.setattr(Scrubber, "check", lambda self, part: 1 // 0)
        scrubbing.begin()
        with pytest.raises(ZeroDivisionError):
            await scrubbing.follow(Follower())
    assert "the scrub stopped" in caplog.text
    caplog.clear()
    scrubbing.begin()
    await scrubbing.follow(Follower())
    assert (await scrubbing.report())["chunks"] == FILES


async def until_checked(scrubbing: BackgroundScrub, scrubber: Scrubber, chunks: int) -> None:
    with trio.fail_after(10):
        while scrubber.status().chunks < chunks:
            await scrubbing._changed.wait()
