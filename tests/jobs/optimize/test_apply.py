"""Applying the optimizer's results."""

from functools import partial

from modelfs.jobs.optimize.apply import Applier
from modelfs.jobs.optimize.backlog import Backlog
from tests.support.optimized_models import forms, put, real, remove, work_on_next
from tests.support.run_jobs import drain
from tests.support.stores import Box, content_of, stored_file


def test_a_source_that_died_meanwhile_is_not_derived_from(wide: Box) -> None:
    """A form is not applied if its source has lost its last file since the work."""
    store = wide.store
    put(store, "base", real("base.safetensors"))
    inode = stored_file(store, b"finetune", real("finetune.safetensors"))
    backlog = Backlog(store)
    applier = Applier(store, backlog)
    result = work_on_next(store, backlog)
    remove(store, b"base")
    drain(store.publish(result.written, partial(applier.still_valid, result)))
    drain(applier.apply(result))
    assert "delta" not in forms(store)
    assert content_of(store, inode) == real("finetune.safetensors")
