"""Which tensors a vector field depends on, found without the user naming them.

Two searches together miss nothing that a first evaluation uses: tensors are looked up where Python keeps them
(module parameters, closures, defaults, partial arguments, attributes, globals), which also finds those used only
later in the solve; and the autograd graph of one evaluation is walked, which also finds leaves hidden anywhere else.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

#: What an autograd graph takes beside the tensors that it saves, about.
GRAPH_NBYTES = 4096


def held_tensors(func: Callable) -> list[Tensor]:
    """Tensors that Python objects inside ``func`` hold, each once, in a reproducible order."""
    found: dict[int, Tensor] = {}
    visited: set[int] = set()
    stack: list[Any] = [func]
    while stack:
        thing = stack.pop()
        if id(thing) in visited:
            continue
        visited.add(id(thing))
        if isinstance(thing, Tensor):
            found[id(thing)] = thing
        else:
            # reversed, so that the stack gives them back in the order in which they stand
            stack.extend(reversed(list(_held_by(thing))))
    return list(found.values())


def _held_by(thing: Any) -> Iterator[Any]:
    """The objects directly held by a callable, a module, a container or a plain user object."""
    if isinstance(thing, nn.Module):
        yield from thing.parameters()
        yield from thing.buffers()
        for module in thing.modules():
            if not type(module).__module__.startswith("torch."):
                yield type(module).forward
            yield from (v for k, v in vars(module).items() if k not in {"_parameters", "_buffers", "_modules"})
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, types.FunctionType):
        yield from _held_by_function(thing)
    elif isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from thing
    elif hasattr(thing, "__dict__") and not isinstance(thing, types.ModuleType | type):
        yield from vars(thing).values()


def _held_by_function(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    yield function.__defaults__
    yield function.__kwdefaults__
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        # A global is only looked into where it can hold tensors by itself: objects reached by name may be large.
        if isinstance(value, Tensor | nn.Module | types.FunctionType | functools.partial | list | tuple | dict):
            yield value


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function's code looks up, that of functions defined inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def leaves_behind(outputs: Iterable[Tensor], known: Iterable[Tensor]) -> list[Tensor]:
    """Leaf tensors that the autograd graph of some tensors reaches without passing through a known tensor."""
    known = list(known)
    _, leaves = _graph_behind(outputs, stop={tensor.grad_fn for tensor in known})
    known_ids = {id(tensor) for tensor in known}
    return [leaf for leaf in leaves if id(leaf) not in known_ids]


def independent(tensors: list[Tensor]) -> list[Tensor]:
    """The same tensors if none was computed from another, the leaves behind all of them otherwise.

    The gradient of a tensor flows on to what it was computed from, and would be counted twice there if that were
    differentiated on its own as well.
    """
    nodes_made = {tensor.grad_fn for tensor in tensors if not tensor.is_leaf}
    ids = {id(tensor) for tensor in tensors}
    behind: dict[int, Tensor] = {}
    overlap = False
    for tensor in tensors:
        nodes, leaves = _graph_behind([tensor])
        behind.update((id(leaf), leaf) for leaf in leaves)
        others = (nodes & nodes_made) - {tensor.grad_fn}
        overlap |= bool(others) or (not tensor.is_leaf and any(id(leaf) in ids for leaf in leaves))
    return list(behind.values()) if overlap else tensors


def _graph_behind(outputs: Iterable[Tensor], stop: Set[Any] = frozenset()) -> tuple[set[Any], list[Tensor]]:
    """Nodes of the autograd graph that made some tensors, up to those in ``stop``, and the leaves that they end in."""
    outputs = list(outputs)
    leaves = {id(output): output for output in outputs if output.grad_fn is None}
    stack: list[Any] = list({output.grad_fn for output in outputs} - stop - {None})
    seen: set[Any] = {None, *stop, *stack}
    add, push = seen.add, stack.append
    while stack:
        node = stack.pop()
        behind = node.next_functions
        for parent, _ in behind:
            if parent not in seen:
                add(parent)
                push(parent)
        if not behind and (variable := getattr(node, "variable", None)) is not None:
            leaves[id(variable)] = variable
    return seen - stop - {None}, list(leaves.values())


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a vector field with its autograd graph.

    Attributes
    ----------
    argument : Tensor
        The state that it was evaluated at, a leaf of the graph.
    value : Tensor
        ``func(t, argument)``.
    nbytes : int
        Memory that it holds, beside what ``func`` itself holds.
    held : tuple of Tensor
        The tensors requiring grad that were found to be held by ``func``.
    """

    argument: Tensor
    value: Tensor
    nbytes: int
    held: tuple[Tensor, ...] = ()


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Addresses of tensors' memory, and its sizes in bytes; of dense tensors, as others have no one memory."""
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.layout == torch.strided]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def graphs_are_watched() -> bool:
    """Whether what autograd saves is in the hands of hooks: of checkpointing, say, or of moving it elsewhere.

    They expect one backward pass to call them once.
    """
    top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top_hooks is not None and top_hooks(True) is not None


def find_parameters(
    func: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor
) -> tuple[tuple[Tensor, ...], Evaluation]:
    """Every tensor requiring grad that ``func`` depends on besides its arguments.

    Parameters
    ----------
    func : callable
        The vector field ``func(t, y)``.
    t, y : Tensor
        Where to evaluate it once.

    Returns
    -------
    parameters : tuple of Tensor
        Leaves and non-leaves, none computed from another.
    evaluation : Evaluation
        That evaluation.
    """
    held = held_tensors(func)
    parameters = [tensor for tensor in held if tensor.requires_grad]
    argument = y.detach().requires_grad_()
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor.detach()  # a value that its own graph saves would never be freed

    watched = True
    with torch.enable_grad():
        try:
            with saved_tensors_hooks(note, lambda tensor: tensor):
                value = func(t, argument)
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            value, watched = func(t, argument), False  # which calls a transform of torch.func
    if not isinstance(value, Tensor):
        return tuple(parameters), Evaluation(argument, value, 0)
    if watched:
        own = _storages([argument, value, *saved])
        nbytes = sum(own[at] for at in own.keys() - _storages(held).keys()) + GRAPH_NBYTES
    else:  # as if every operation saved a state
        nbytes = len(_graph_behind([value])[0]) * y.numel() * y.element_size() + GRAPH_NBYTES
    saved.clear()
    evaluation = Evaluation(argument, value, nbytes, tuple(parameters))
    if value.requires_grad:
        parameters += leaves_behind([value], [*parameters, argument])
    return tuple(independent(parameters)), evaluation


def check_not_replaced(func: Callable, held: Iterable[Tensor]) -> None:
    """Refuse a vector field that no longer holds the tensors that are to be differentiated, where it held them."""
    still = {id(tensor) for tensor in held_tensors(func)}
    if gone := [tensor for tensor in held if tensor.is_leaf and id(tensor) not in still]:
        raise RuntimeError(
            f"func(t, y) no longer holds a tensor of shape {tuple(gone[0].shape)} that it held when it was solved: its "
            "gradient would be lost. Where torch.func.functional_call replaced parameters for the solve, call it "
            "inside func instead, or solve with adjoint='backprop'."
        )


def check_no_hooks(parameters: Iterable[Tensor]) -> None:
    """Refuse tensors with hooks where they are not differentiated once, by the backward pass itself."""
    if any(tensor._backward_hooks for tensor in parameters):
        raise RuntimeError(
            "func(t, y) depends on a tensor with a hook (register_hook), which would be called for every evaluation "
            "and once more for their sum. Use adjoint='backprop', or register the hook on another tensor."
        )
