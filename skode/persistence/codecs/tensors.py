"""Tensors, and what belongs to torch beside modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skode.persistence.codecs.layout import order_of, original
from skode.persistence.decoder import Decoder, expected
from skode.persistence.encoder import Codec, Encoder
from skode.persistence.errors import DamagedFileError
from skode.persistence.tensor_file import DTYPES


def _tensor(x: Tensor, encoder: Encoder) -> list[Any]:
    if x.layout != torch.strided or x.is_quantized or x.is_meta:
        raise encoder.refuse("sparse, quantised and meta tensors can't be saved.")
    if x._backward_hooks:
        raise encoder.refuse("a tensor with hooks can't be saved.")
    numbers = x.detach().cpu().resolve_conj().resolve_neg()
    if numbers.is_complex():
        numbers = torch.view_as_real(numbers)
    elif numbers.dtype not in DTYPES.values():
        raise encoder.refuse(f"tensors of dtype {x.dtype} can't be saved.")
    order = order_of(numbers.shape, numbers.stride())
    data = encoder.data(numbers if order is None else numbers.permute(order))
    return [data, order, x.is_leaf and x.requires_grad, x.is_complex()]


def _tensor_again(decoder: Decoder, data: Any, order: Any, requires_grad: Any, is_complex: Any) -> Tensor:
    numbers = decoder.data(data)
    if order is not None:
        numbers = numbers.permute(original(order, numbers.ndim))
    if expected(is_complex, bool):
        numbers = torch.view_as_complex(numbers)
    return numbers.requires_grad_(expected(requires_grad, bool))


def _parameter_again(decoder: Decoder, *entry: Any) -> nn.Parameter:
    found = _tensor_again(decoder, *entry)
    return nn.Parameter(found.detach(), requires_grad=found.requires_grad)


def _dtype_again(decoder: Decoder, name: Any) -> torch.dtype:
    found = getattr(torch, expected(name, str), None)
    if not isinstance(found, torch.dtype):
        raise DamagedFileError("a dtype is unknown")
    return found


def _generator(x: torch.Generator, encoder: Encoder) -> list[Any]:
    if x.device.type != "cpu":
        raise encoder.refuse("random states of devices can't be saved.")
    return [encoder.data(x.get_state())]


def _generator_again(decoder: Decoder, data: Any) -> torch.Generator:
    return torch.Generator().set_state(torch.from_numpy(decoder.array(data, "uint8")))


def _size_again(decoder: Decoder, *sides: Any) -> torch.Size:
    return torch.Size([expected(side, int) for side in sides])


TENSORS: dict[type, Codec] = {
    Tensor: Codec("tensor", _tensor, _tensor_again),
    nn.Parameter: Codec("parameter", _tensor, _parameter_again),
    torch.dtype: Codec("torch.dtype", lambda x, encoder: [str(x).removeprefix("torch.")], _dtype_again),
    # whatever was computed elsewhere is loaded to the CPU
    torch.device: Codec("torch.device", lambda x, encoder: [], lambda decoder: torch.device("cpu")),
    torch.Size: Codec("torch.size", lambda x, encoder: list(x), _size_again),
    torch.Generator: Codec("torch.generator", _generator, _generator_again),
}
