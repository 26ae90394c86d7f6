"""The tensors in a pickle of torch.save, found without unpickling it.

Theory of operation. A pickle is a program for a stack machine. It may import and call anything;
here nothing is imported or called. Only values that belong to tensors are kept, and every other
value is the same `None`::

    GLOBAL "torch FloatStorage"      a `Global`: a name, whether a function or class has it or not
    BINPERSID of ("storage", a Global, "0", "cpu", 98304)
                                     a `Storage`: the record `data/0`, if the archive has it
    REDUCE of torch._utils._rebuild_tensor_v2 and (storage, offset, size, stride, ...)
                                     a `Tensor`
    REDUCE of any other Global, or NEWOBJ
                                     a tensor or container that is alone in the arguments (so of
                                     `_rebuild_parameter`), or a container of the arguments
    a dict, list, tuple or set       a `Container`: its tensors, and containers with tensors, by the
                                     key or index
    BUILD                            the entries of the object's state are added to it

A value that is fetched from the memo is `None`, too, unless it is a text or a `Global`: the first
reference to a tensor gives it its name. So values make a tree, and every one of them is paid for by
opcodes, each of which costs constant time and an amount of a `MemoryBudget`.

Opcodes for text that only protocols 0 and 1 use are not understood: torch.save uses protocol 2
unless another one is asked for.

Example. `torch.save({"w": tensor})` of 2 x 3 floats, without the opcodes that fill the memo::

    opcodes                                         the stack behind them
    EMPTY_DICT, BINUNICODE "w"                      Container() "w"
    GLOBAL torch._utils _rebuild_tensor_v2          Container() "w" Global
    MARK, (MARK, BINUNICODE "storage", GLOBAL torch FloatStorage, BINUNICODE "0", ..., TUPLE)
                                                    ... Global ("storage", Global, 0, "cpu", 6)
    BINPERSID                                       ... Global Storage(0)
    BININT1 0, (2, 3), (3, 1), NEWFALSE, .., TUPLE  ... Global (Storage(0), 0, (2, 3), (3, 1), ..)
    REDUCE                                          Container() "w" Tensor(0)
    SETITEM, STOP                                   Container("w" -> 0)
"""

import pickle  # for the opcodes' codes alone
from typing import Final

from modelfs.formats.budget import Borrowed, MemoryBudget
from modelfs.formats.layout import MalformedModel, ReadAt
from modelfs.formats.torch.pickle_machine import Machine, Source
from modelfs.formats.torch.pickle_opcodes import OPCODES
from modelfs.formats.torch.pickle_values import Value, paths
from modelfs.formats.torch.storage import Storages

# A bound on time: so many take some 8 s here. 100,000 tensors are 3.2 million.
MAX_OPCODES: Final = 1 << 22

# Values that wait for their container: Python puts 1000 at a time into one.
MAX_STACK: Final = 1 << 14

_STOP: Final = pickle.STOP[0]


def note_tensors(
    read_at: ReadAt, start: int, stop: int, storages: Storages, budget: MemoryBudget
) -> None:
    """Note the dtypes, shapes and names of storages in the pickle that lies from `start` to `stop`.

    Raises:
        MalformedModel: it was not understood, or not to its end; dtypes and views noted by then
            stay.
    """
    with Borrowed(budget) as tree:
        with Borrowed(budget) as work:
            root = _run(Machine(Source(read_at, start, stop), storages, work, tree))
        for index, path in paths(root):
            storages.note_name(index, path)


def _run(machine: Machine) -> Value:
    """Return the value at the top of the stack at the end of the pickle."""
    stack, byte = machine.stack, machine.source.byte
    try:
        for _ in range(MAX_OPCODES):
            code = byte()
            if code == _STOP:
                return stack[-1]
            OPCODES[code](machine)
            if len(stack) > MAX_STACK:
                break
    except LookupError as exc:
        raise MalformedModel(f"pickle: {type(exc).__name__}") from exc
    raise MalformedModel("the pickle is too long, or its containers are too large")
