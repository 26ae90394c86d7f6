"""The opcodes of a pickle ("pickletools" in Python's library), as functions of the machine.

A missing opcode, an empty stack and a place that the memo does not have raise `LookupError`.
"""

import pickle  # for the opcodes' codes alone
import re
import sys
from collections.abc import Callable
from typing import Final

from modelfs.formats.names import MAX_NAME
from modelfs.formats.torch import pickle_objects as objects
from modelfs.formats.torch.pickle_machine import PLACE, TUPLE, Machine
from modelfs.formats.torch.pickle_values import Container, Value

Opcode = Callable[[Machine], None]

# Longer integers are no number of a tensor.
MAX_INTEGER_SIZE: Final = 8

_NUMBER: Final = re.compile("0|[1-9][0-9]{0,17}")


# -- opcodes with an argument


def counted(size: int, opcode: Callable[[Machine, int], None]) -> Opcode:
    """Return an opcode whose argument is a number of `size` bytes."""

    def with_argument(machine: Machine) -> None:
        opcode(machine, machine.source.number(size))

    return with_argument


def fixed(argument: int, opcode: Callable[[Machine, int], None]) -> Opcode:
    """Return an opcode whose argument is always the same."""

    def with_argument(machine: Machine) -> None:
        opcode(machine, argument)

    return with_argument


# -- bytes, numbers and texts


def ignore(machine: Machine, size: int) -> None:
    machine.source.skip(size)


def nothing(machine: Machine) -> None:
    machine.stack.append(None)


def skip(machine: Machine, size: int) -> None:
    machine.source.skip(size)
    machine.stack.append(None)


def unsigned(machine: Machine, size: int) -> None:
    machine.stack.append(machine.source.number(size))


def signed(machine: Machine, size: int) -> None:
    if size > MAX_INTEGER_SIZE:
        skip(machine, size)
    else:
        machine.stack.append(int.from_bytes(machine.source.read(size), "little", signed=True))


def text(machine: Machine, size: int) -> None:
    if size > MAX_NAME:
        skip(machine, size)
        return
    value = machine.source.read(size).decode(errors="replace")
    if _NUMBER.fullmatch(value):
        machine.stack.append(int(value))  # takes less, and is the same in a path
    else:
        machine.tree.reserve(sys.getsizeof(value))
        machine.stack.append(value)


# -- the stack and the memo


def pop(machine: Machine) -> None:
    machine.release(machine.stack.pop())


def pop_mark(machine: Machine) -> None:
    machine.pop_mark()


def memoize(machine: Machine) -> None:
    machine.memoize(len(machine.memo))


def get(machine: Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


# -- containers


def container(machine: Machine) -> None:
    machine.stack.append(Container())


def list_of_marked(machine: Machine) -> None:
    values = machine.pop_mark()
    container(machine)
    _extend(machine, values)


def dict_of_marked(machine: Machine) -> None:
    values = machine.pop_mark()
    container(machine)
    _update(machine, values)


def append(machine: Machine) -> None:
    _extend(machine, [machine.stack.pop()])


def append_marked(machine: Machine) -> None:
    _extend(machine, machine.pop_mark())


def set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine, [key, value])


def set_marked_items(machine: Machine) -> None:
    _update(machine, machine.pop_mark())


def _extend(machine: Machine, values: list[Value]) -> None:
    target = machine.stack[-1]
    if isinstance(target, Container):
        for value in values:
            target.enter(target.count, value, machine.tree)
            machine.release(value)
            target.count += 1


def _update(machine: Machine, values: list[Value]) -> None:
    target = machine.stack[-1]
    if isinstance(target, Container):
        for key, value in zip(values[::2], values[1::2], strict=False):
            target.enter(key if isinstance(key, str | int) else "?", value, machine.tree)
            machine.release(value)


def tuple_of_marked(machine: Machine) -> None:
    machine.stack.append(_tuple(machine, machine.pop_mark()))


def tuple_of(machine: Machine, count: int) -> None:
    start = len(machine.stack) - count
    values = machine.stack[start:]
    del machine.stack[start:]
    machine.stack.append(_tuple(machine, values))


def _tuple(machine: Machine, values: list[Value]) -> Value:
    """Return a tuple, or a container if there are tensors in it."""
    tensors = Container()
    for index, value in enumerate(values):
        tensors.enter(index, value, machine.tree)
    if tensors.entries:
        return tensors
    machine.work.reserve(TUPLE + PLACE * len(values))
    return tuple(None if isinstance(value, Container) else value for value in values)


# -- the table

_BY_CODE: Final[dict[bytes, Opcode]] = {
    pickle.PROTO: fixed(1, ignore),
    pickle.FRAME: fixed(8, ignore),
    pickle.MARK: Machine.push_mark,
    pickle.POP: pop,
    pickle.POP_MARK: pop_mark,
    pickle.NONE: nothing,
    pickle.NEWTRUE: nothing,
    pickle.NEWFALSE: nothing,
    pickle.BINFLOAT: fixed(8, skip),
    pickle.BINBYTES: counted(4, skip),
    pickle.BINBYTES8: counted(8, skip),
    pickle.BYTEARRAY8: counted(8, skip),
    pickle.BINSTRING: counted(4, skip),
    pickle.SHORT_BINBYTES: counted(1, skip),
    pickle.SHORT_BINSTRING: counted(1, skip),
    pickle.BINUNICODE: counted(4, text),
    pickle.BINUNICODE8: counted(8, text),
    pickle.SHORT_BINUNICODE: counted(1, text),
    pickle.BININT: fixed(4, signed),
    pickle.BININT1: fixed(1, unsigned),
    pickle.BININT2: fixed(2, unsigned),
    pickle.LONG1: counted(1, signed),
    pickle.LONG4: counted(4, signed),
    pickle.EMPTY_LIST: container,
    pickle.EMPTY_DICT: container,
    pickle.EMPTY_SET: container,
    pickle.LIST: list_of_marked,
    pickle.FROZENSET: list_of_marked,
    pickle.DICT: dict_of_marked,
    pickle.EMPTY_TUPLE: fixed(0, tuple_of),
    pickle.TUPLE1: fixed(1, tuple_of),
    pickle.TUPLE2: fixed(2, tuple_of),
    pickle.TUPLE3: fixed(3, tuple_of),
    pickle.TUPLE: tuple_of_marked,
    pickle.APPEND: append,
    pickle.APPENDS: append_marked,
    pickle.ADDITEMS: append_marked,
    pickle.SETITEM: set_item,
    pickle.SETITEMS: set_marked_items,
    pickle.BINPUT: counted(1, Machine.memoize),
    pickle.LONG_BINPUT: counted(4, Machine.memoize),
    pickle.MEMOIZE: memoize,
    pickle.BINGET: counted(1, get),
    pickle.LONG_BINGET: counted(4, get),
    pickle.GLOBAL: objects.named_global,
    pickle.STACK_GLOBAL: objects.global_of_stack,
    pickle.BINPERSID: objects.persistent_id,
    pickle.REDUCE: objects.reduce,
    pickle.NEWOBJ: objects.reduce,
    pickle.NEWOBJ_EX: objects.new_with_keywords,
    pickle.BUILD: objects.build,
}

OPCODES: Final[dict[int, Opcode]] = {code[0]: opcode for code, opcode in _BY_CODE.items()}
