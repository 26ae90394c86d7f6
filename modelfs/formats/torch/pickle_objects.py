"""The opcodes of a pickle that import, call and set up objects.

Here nothing is imported or called: a call that rebuilds a tensor makes a `Tensor`, and any other
one a container of the tensors in its arguments.
"""

import sys
from typing import Final, TypeGuard

from modelfs.formats.dtypes import TORCH_DTYPES
from modelfs.formats.torch.pickle_machine import ATOM, Machine
from modelfs.formats.torch.pickle_values import Container, Global, Storage, Tensor, Value
from modelfs.formats.torch.storage import View

# Functions of torch._utils.
REBUILD: Final = frozenset(
    {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor"}
)
REBUILD_SUBCLASS: Final = "_rebuild_from_type_v2"  # of function, type, arguments, state


def named_global(machine: Machine) -> None:
    module = machine.source.line()
    _push_global(machine, module, machine.source.line())


def global_of_stack(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    _push_global(machine, str(module), str(name))


def _push_global(machine: Machine, module: str, name: str) -> None:
    is_torch = module.partition(".")[0] == "torch"
    machine.work.reserve(ATOM + sys.getsizeof(name))
    machine.stack.append(Global(name if is_torch else ""))


def persistent_id(machine: Machine) -> None:
    identity = machine.stack.pop()
    storage = None
    match identity:
        case ("storage", Global(name), int(number), *_):
            if (index := machine.storages.find(number)) is not None:
                storage = Storage(index)
                if name in TORCH_DTYPES:
                    machine.storages.note_dtype(index, TORCH_DTYPES[name])
    machine.release(identity)
    machine.stack.append(storage)


def reduce(machine: Machine) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_result(machine, function, arguments))
    machine.release(arguments)


def new_with_keywords(machine: Machine) -> None:
    machine.release(machine.stack.pop())
    reduce(machine)


def _result(machine: Machine, function: Value, arguments: Value) -> Value:
    """Return the value that stands for the result of a call."""
    name = function.name if isinstance(function, Global) else ""
    while name == REBUILD_SUBCLASS and isinstance(arguments, tuple) and len(arguments) == 4:
        function, _, arguments, _ = arguments
        name = function.name if isinstance(function, Global) else ""
    if name in REBUILD and isinstance(arguments, tuple):
        return _rebuilt(machine, arguments)
    if not isinstance(arguments, Container) or not arguments.entries:
        return Container()
    if len(arguments.entries) > 2:
        return arguments
    alone = arguments.entries[1]
    return Tensor(alone) if isinstance(alone, int) else alone


def _rebuilt(machine: Machine, arguments: tuple[Value, ...]) -> Value:
    """Return the tensor that a function of `REBUILD` makes, None if it is not understood."""
    match arguments:
        case (Storage(index), int(offset), tuple(size), tuple(stride), *rest):
            for argument in rest:
                if isinstance(argument, Global) and argument.name in TORCH_DTYPES:
                    machine.storages.note_dtype(index, TORCH_DTYPES[argument.name])
            if _are_integers(size) and _are_integers(stride):
                machine.storages.note_view(index, View(offset, size, stride))
            return Tensor(index)
    return None


def _are_integers(values: tuple[Value, ...]) -> TypeGuard[tuple[int, ...]]:
    return all(isinstance(value, int) for value in values)


def build(machine: Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(state, Container) and isinstance(target, Container):
        target.absorb(state)
    machine.release(state)
