"""The tensors in a pickle of torch.save, found without unpickling it.

A pickle is a program for a stack machine ("pickletools" in Python's library lists the opcodes). It
may import and call anything; here nothing is imported or called. Of values only those are kept that
tell of tensors, and everything else is the same `None`::

    GLOBAL "torch FloatStorage"      a `Global`: a name, whatever it is that has it
    BINPERSID of ("storage", a Global, "0", "cpu", 98304)
                                     a `Storage`: the record `data/0`, if the archive has it
    REDUCE of torch._utils._rebuild_tensor_v2 and (storage, offset, size, stride, ...)
                                     a `Tensor`
    REDUCE of any other Global, or NEWOBJ
                                     a tensor or container that is alone in the arguments (so of
                                     `_rebuild_parameter`), or a container of the arguments
    a dict, list, tuple or set       a `Container`: its tensors, and containers with tensors, by the
                                     key or index
    BUILD                            what the object's state contains is added to it

What is fetched from the memo is `None` too, unless it is a text or a `Global`: the first reference
to a tensor gives it its name. So values make a tree, and every one of them is paid for by opcodes,
each of which costs constant time and an `MemoryBudget` that was agreed on before.

Of the opcodes for text that only protocols 0 and 1 use, none is understood: torch.save uses
protocol 2 if nobody asks for a higher one.
"""

import pickle  # for the opcodes' codes alone
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeGuard

from modelfs.formats.budget import Borrowed, MemoryBudget
from modelfs.formats.dtypes import TORCH_DTYPES
from modelfs.formats.layout import MalformedModel, ReadAt
from modelfs.formats.names import MAX_NAME
from modelfs.formats.torch.storage import Storages, View

# A bound on time: so many take some 8 s here. 100,000 tensors are 3.2 million.
MAX_OPCODES: Final = 1 << 22

# Values that wait for what they are put into: Python puts 1000 at a time into a container.
MAX_STACK: Final = 1 << 14

# Containers within containers: those that a model's parts are in do not go so deep.
MAX_DEPTH: Final = 100

# No longer integer tells of tensors.
MAX_INTEGER_SIZE: Final = 8

_NUMBER: Final = re.compile("0|[1-9][0-9]{0,17}")

WINDOW: Final = 1 << 16

# What things take, in bytes: a place in the memo or in a tuple, what is put there, a tuple besides
# its places, an entry of a container, and a container.
PLACE: Final = 9
ATOM: Final = 36
TUPLE: Final = 64
ENTRY: Final = 50
CONTAINER: Final = 250

REBUILD: Final = frozenset(
    {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor"}
)
REBUILD_SUBCLASS: Final = "_rebuild_from_type_v2"  # of function, type, arguments, state


@dataclass(frozen=True, slots=True)
class _Global:
    name: str  # without its module, and empty if that is not torch's


@dataclass(frozen=True, slots=True)
class _Storage:
    index: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    index: int  # of its storage


@dataclass(slots=True)
class _Container:
    """Its tensors and containers; of a tensor, the index of its storage."""

    entries: "list[str | int | _Container]" = field(default_factory=list)  # key, value, key, ...
    count: int = 0  # how many were appended, those that are no entries included
    depth: int = 0


_Value = _Global | _Storage | _Tensor | _Container | int | str | tuple["_Value", ...] | None


def note_tensors(
    read_at: ReadAt, start: int, stop: int, storages: Storages, budget: MemoryBudget
) -> None:
    """Note of storages what the pickle that lies from `start` to `stop` says of them.

    Raises:
        MalformedModel: it was not understood, or not to its end; dtypes and views noted by then
            stay.
    """
    with Borrowed(budget) as tree:
        with Borrowed(budget) as work:
            root = _Machine(_Source(read_at, start, stop), storages, work, tree).run()
        for index, path in _paths(root):
            storages.note_name(index, path)


def _paths(root: _Value) -> Iterator[tuple[int, str]]:
    """Yield the storage of each tensor in a tree and the path that leads there, in order."""
    if not isinstance(root, _Container):
        return
    open_containers = [(iter(root.entries), "")]
    while open_containers:
        entries, prefix = open_containers[-1]
        if (key := next(entries, None)) is None:
            open_containers.pop()
            continue
        value = next(entries)
        path = f"{prefix}{key}"[:MAX_NAME]
        if isinstance(value, int):
            yield value, path
        elif isinstance(value, _Container):
            open_containers.append((iter(value.entries), f"{path}."))


class _Source:
    """The pickle's bytes, read through a window."""

    def __init__(self, read_at: ReadAt, start: int, stop: int) -> None:
        self._read_at = read_at
        self._at = start
        self._stop = stop
        self._data = b""
        self._pos = 0

    def byte(self) -> int:
        if self._pos == len(self._data):
            self._fill(1)
        self._pos += 1
        return self._data[self._pos - 1]

    def number(self, size: int) -> int:
        return int.from_bytes(self.read(size), "little")

    def read(self, size: int) -> bytes:
        """Return the next bytes, no more than a window."""
        if self._pos + size > len(self._data):
            self._fill(size)
        self._pos += size
        return self._data[self._pos - size : self._pos]

    def skip(self, size: int) -> None:
        self._pos += size
        if self._pos > len(self._data):
            self._at += self._pos - len(self._data)
            self._data, self._pos = b"", 0

    def line(self) -> str:
        stop = self._data.find(b"\n", self._pos)
        if stop < 0:
            self._fill(1)
            stop = self._data.find(b"\n", self._pos)
        if not 0 <= stop - self._pos <= MAX_NAME:
            raise MalformedModel("no end of a name in the pickle")
        return self.read(stop + 1 - self._pos)[:-1].decode(errors="replace")

    def _fill(self, size: int) -> None:
        """Have `size` bytes in the window, and more of them if there are."""
        more = self._read_at(self._at, min(WINDOW, self._stop - self._at)) if self._left else b""
        self._data, self._pos = self._data[self._pos :] + more, 0
        self._at += len(more)
        if len(self._data) < size:
            raise MalformedModel("the pickle ends early")

    @property
    def _left(self) -> bool:
        return self._at < self._stop


class _Machine:
    """The stack, the memo, and what each opcode does to them."""

    def __init__(self, source: _Source, storages: Storages, work: Borrowed, tree: Borrowed) -> None:
        self._source = source
        self._storages = storages
        self._work = work
        self._tree = tree
        self._stack: list[_Value] = []
        self._marks: list[int] = []
        self._memo: list[_Value] = []

    def run(self) -> _Value:
        """Return what is at the top of the stack at the end."""
        # Not kept: what the machine holds is to be gone when it is, and not when cycles are looked
        # for.
        stack, do, byte = self._stack, self._opcodes(), self._source.byte
        try:
            for _ in range(MAX_OPCODES):
                code = byte()
                if code == pickle.STOP[0]:
                    return stack[-1]
                do[code]()
                if len(stack) > MAX_STACK:
                    break
        except LookupError as exc:
            raise MalformedModel(f"pickle: {type(exc).__name__}") from exc
        raise MalformedModel("the pickle is too long, or its containers are too large")

    def _opcodes(self) -> dict[int, Callable[[], None]]:
        count, push, skip, text = self._count, self._push_nothing, self._skip, self._text
        integer, put, get = self._integer, self._put, self._get
        tuple_of, reduce = self._tuple_of, self._reduce
        handlers: dict[bytes, Callable[[], None]] = {
            pickle.PROTO: partial(self._source.skip, 1),
            pickle.FRAME: partial(self._source.skip, 8),
            pickle.MARK: self._mark,
            pickle.POP: self._pop,
            pickle.POP_MARK: self._drop_mark,
            **dict.fromkeys((pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE), push),
            pickle.BINFLOAT: partial(skip, 8),
            pickle.BINBYTES: partial(count, 4, skip),
            pickle.BINBYTES8: partial(count, 8, skip),
            pickle.BYTEARRAY8: partial(count, 8, skip),
            pickle.BINSTRING: partial(count, 4, skip),
            pickle.SHORT_BINBYTES: partial(count, 1, skip),
            pickle.SHORT_BINSTRING: partial(count, 1, skip),
            pickle.BINUNICODE: partial(count, 4, text),
            pickle.BINUNICODE8: partial(count, 8, text),
            pickle.SHORT_BINUNICODE: partial(count, 1, text),
            pickle.BININT: partial(integer, 4, signed=True),
            pickle.BININT1: partial(integer, 1, signed=False),
            pickle.BININT2: partial(integer, 2, signed=False),
            pickle.LONG1: partial(count, 1, partial(integer, signed=True)),
            pickle.LONG4: partial(count, 4, partial(integer, signed=True)),
            **dict.fromkeys((pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET), self._empty),
            **dict.fromkeys((pickle.LIST, pickle.FROZENSET), self._list),
            pickle.DICT: self._dict,
            pickle.EMPTY_TUPLE: partial(tuple_of, 0),
            pickle.TUPLE1: partial(tuple_of, 1),
            pickle.TUPLE2: partial(tuple_of, 2),
            pickle.TUPLE3: partial(tuple_of, 3),
            pickle.TUPLE: self._tuple,
            pickle.APPEND: self._append,
            **dict.fromkeys((pickle.APPENDS, pickle.ADDITEMS), self._appends),
            pickle.SETITEM: self._setitem,
            pickle.SETITEMS: self._setitems,
            pickle.BINPUT: partial(count, 1, put),
            pickle.LONG_BINPUT: partial(count, 4, put),
            pickle.MEMOIZE: self._memoize,
            pickle.BINGET: partial(count, 1, get),
            pickle.LONG_BINGET: partial(count, 4, get),
            pickle.GLOBAL: self._global,
            pickle.STACK_GLOBAL: self._stack_global,
            pickle.BINPERSID: self._persistent,
            **dict.fromkeys((pickle.REDUCE, pickle.NEWOBJ), reduce),
            pickle.NEWOBJ_EX: self._new_with_keywords,
            pickle.BUILD: self._build,
        }
        return {code[0]: handler for code, handler in handlers.items()}

    # -- what needs no look

    def _count(self, size: int, then: Callable[[int], None]) -> None:
        then(self._source.number(size))

    def _push_nothing(self) -> None:
        self._stack.append(None)

    def _skip(self, size: int) -> None:
        self._source.skip(size)
        self._stack.append(None)

    def _mark(self) -> None:
        self._marks.append(len(self._stack))
        self._work.reserve(PLACE)

    def _pop(self) -> None:
        self._release(self._stack.pop())

    def _drop_mark(self) -> None:
        self._pop_mark()

    def _pop_mark(self) -> list[_Value]:
        mark = self._marks.pop()
        self._work.give_back(PLACE)
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    # -- numbers and texts

    def _integer(self, size: int, *, signed: bool) -> None:
        if size > MAX_INTEGER_SIZE:
            self._skip(size)
        else:
            value = int.from_bytes(self._source.read(size), "little", signed=signed)
            self._stack.append(value)

    def _text(self, size: int) -> None:
        if size > MAX_NAME:
            self._skip(size)
            return
        text = self._source.read(size).decode(errors="replace")
        if _NUMBER.fullmatch(text):
            self._stack.append(int(text))  # takes less, and is the same in a path
        else:
            self._tree.reserve(sys.getsizeof(text))
            self._stack.append(text)

    # -- the memo

    def _put(self, index: int) -> None:
        top = self._stack[-1]
        value = top if isinstance(top, str | int | _Global) else None
        if index == len(self._memo):
            self._work.reserve(PLACE + ATOM if isinstance(value, int | _Global) else PLACE)
            self._memo.append(value)
        else:
            self._memo[index] = value

    def _memoize(self) -> None:
        self._put(len(self._memo))

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    # -- containers

    def _empty(self) -> None:
        self._stack.append(_Container())

    def _list(self) -> None:
        values = self._pop_mark()
        self._empty()
        self._extend(values)

    def _dict(self) -> None:
        values = self._pop_mark()
        self._empty()
        self._update(values)

    def _append(self) -> None:
        self._extend([self._stack.pop()])

    def _appends(self) -> None:
        self._extend(self._pop_mark())

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _setitems(self) -> None:
        self._update(self._pop_mark())

    def _tuple(self) -> None:
        self._stack.append(self._packed(self._pop_mark()))

    def _tuple_of(self, count: int) -> None:
        at = len(self._stack) - count
        values = self._stack[at:]
        del self._stack[at:]
        self._stack.append(self._packed(values))

    def _packed(self, values: list[_Value]) -> _Value:
        """Return a tuple, or a container if there are tensors in it."""
        container = _Container()
        for index, value in enumerate(values):
            self._enter(container, index, value)
        if container.entries:
            return container
        self._work.reserve(TUPLE + PLACE * len(values))
        return tuple(None if isinstance(value, _Container) else value for value in values)

    def _extend(self, values: list[_Value]) -> None:
        container = self._stack[-1]
        if isinstance(container, _Container):
            for value in values:
                self._enter(container, container.count, value)
                self._release(value)
                container.count += 1

    def _update(self, values: list[_Value]) -> None:
        container = self._stack[-1]
        if isinstance(container, _Container):
            for key, value in zip(values[::2], values[1::2], strict=False):
                self._enter(container, key if isinstance(key, str | int) else "?", value)
                self._release(value)

    def _enter(self, container: _Container, key: str | int, value: _Value) -> None:
        """Make a tensor, or a container that has any, an entry."""
        if isinstance(value, _Container):
            if not value.entries or value.depth >= MAX_DEPTH:
                return
            self._tree.reserve(CONTAINER)
            container.depth = max(container.depth, value.depth + 1)
        elif not isinstance(value, _Tensor):
            return
        self._tree.reserve(ENTRY)
        container.entries += (key, value.index if isinstance(value, _Tensor) else value)

    def _release(self, value: _Value) -> None:
        # What tuples within tuples within tuples take is given back at the end alone.
        if isinstance(value, tuple):
            for each in (value, *(inner for inner in value if isinstance(inner, tuple))):
                self._work.give_back(TUPLE + PLACE * len(each))

    # -- objects

    def _global(self) -> None:
        module = self._source.line()
        self._push_global(module, self._source.line())

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push_global(str(module), str(name))

    def _push_global(self, module: str, name: str) -> None:
        ours = module.partition(".")[0] == "torch"
        self._work.reserve(ATOM + sys.getsizeof(name))
        self._stack.append(_Global(name if ours else ""))

    def _persistent(self) -> None:
        identity = self._stack.pop()
        storage = None
        match identity:
            case ("storage", _Global(name), int(number), *_):
                if (index := self._storages.find(number)) is not None:
                    storage = _Storage(index)
                    if name in TORCH_DTYPES:
                        self._storages.note_dtype(index, TORCH_DTYPES[name])
        self._release(identity)
        self._stack.append(storage)

    def _reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._called(function, args))
        self._release(args)

    def _new_with_keywords(self) -> None:
        self._release(self._stack.pop())
        self._reduce()

    def _called(self, function: _Value, args: _Value) -> _Value:
        name = function.name if isinstance(function, _Global) else ""
        while name == REBUILD_SUBCLASS and isinstance(args, tuple) and len(args) == 4:
            function, _, args, _ = args
            name = function.name if isinstance(function, _Global) else ""
        if name in REBUILD and isinstance(args, tuple):
            return self._tensor(args)
        if not isinstance(args, _Container) or not args.entries:
            return _Container()
        if len(args.entries) > 2:
            return args
        alone = args.entries[1]
        return _Tensor(alone) if isinstance(alone, int) else alone

    def _tensor(self, args: tuple[_Value, ...]) -> _Value:
        match args:
            case (_Storage(index), int(offset), tuple(size), tuple(stride), *rest):
                for each in rest:
                    if isinstance(each, _Global) and each.name in TORCH_DTYPES:
                        self._storages.note_dtype(index, TORCH_DTYPES[each.name])
                if _are_integers(size) and _are_integers(stride):
                    self._storages.note_view(index, View(offset, size, stride))
                return _Tensor(index)
        return None

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(state, _Container) and isinstance(target, _Container):
            target.entries += state.entries
            target.depth = max(target.depth, state.depth)
        self._release(state)


def _are_integers(values: tuple[_Value, ...]) -> TypeGuard[tuple[int, ...]]:
    return all(isinstance(value, int) for value in values)
