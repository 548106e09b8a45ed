"""One file of tensors and a text, in safetensors' format, with a checksum over all of it.

The format (https://github.com/huggingface/safetensors) is a length, a header in JSON, and the bytes of tensors. The
text is a JSON document in the header's ``__metadata__`` whose first entry is the SHA-256 of every byte of the file but
the digits of that number itself, which have their place at the beginning of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import stat
from collections.abc import Iterator, Mapping
from typing import IO, Any

import torch
from safetensors.torch import save
from torch import Tensor

from skode.persistence.errors import DamagedFileError, ForeignFileError, UnsavableError
from skode.persistence.strict_json import dumped, parsed

#: How every file of skode begins, after eight bytes with the header's length.
BEGINNING = b'{"__metadata__":{"skode":"{\\"sha256\\":\\"'
N_DIGITS = 64
DIGEST_AT = 8 + len(BEGINNING)

#: Most bytes of a header: what is long is a tensor.
LONGEST_HEADER = 2 * 2**20

#: Levels of nesting in a header: metadata, or a tensor's shape and place.
HEADER_LEVELS = 4

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}

CHUNK = 2**20


def packed(document: dict[str, Any], tensors: Mapping[str, Tensor]) -> bytearray:
    """The bytes of a file.

    Parameters
    ----------
    document : dict
        Values that JSON can represent.
    tensors : mapping of str to Tensor
        Contiguous tensors on the CPU, of the dtypes in :data:`DTYPES`, by name.

    Raises
    ------
    UnsavableError
        If the header would be longer than can be read.
    """
    content = bytearray(save(dict(tensors), {"skode": dumped({"sha256": "0" * N_DIGITS, **document})}))
    length = int.from_bytes(content[:8], "little")
    if length > LONGEST_HEADER:
        raise UnsavableError(
            f"The object to save has too many parts beside its tensors: their description is {length} bytes long, and "
            f"{LONGEST_HEADER} are allowed."
        )
    assert content[8:DIGEST_AT] == BEGINNING
    content[DIGEST_AT : DIGEST_AT + N_DIGITS] = _digest(io.BytesIO(content))
    return content


class TensorFile:
    """A file that was opened and is what was written, by its checksum.

    Parameters
    ----------
    name : str
        Name in messages.
    file : file
        Its bytes.
    size : int
        Their number.

    Attributes
    ----------
    document : dict
        The document.
    """

    def __init__(self, name: str, file: IO[bytes], size: int) -> None:
        self.name, self._file = name, file
        self._check_digest(size)
        file.seek(0)
        self._start = 8 + int.from_bytes(file.read(8), "little")
        header = parsed(file.read(self._start - 8), levels=HEADER_LEVELS)
        metadata = header.pop("__metadata__")
        if metadata.keys() != {"skode"} or not isinstance(metadata["skode"], str):
            raise DamagedFileError("its metadata are not skode's")
        self.document = parsed(metadata["skode"].encode("ascii"))
        self._places = _places(header, size - self._start)

    def _check_digest(self, size: int) -> None:
        """Refuse a file that is not skode's, and one whose bytes are not those that were written."""
        start = self._file.read(DIGEST_AT)
        if len(start) < DIGEST_AT or start[8:] != BEGINNING:
            raise ForeignFileError(
                f"{self.name} is not a file that skode wrote, or its beginning is damaged. Pickles are read by pickle "
                "or joblib, and only where you trust those who made them."
            )
        length = int.from_bytes(start[:8], "little")
        if not DIGEST_AT - 8 + N_DIGITS <= length <= min(LONGEST_HEADER, size - 8):
            raise DamagedFileError("its header is cut, or longer than skode writes any")
        written = self._file.read(N_DIGITS)
        if _digest(self._file) != written:
            raise DamagedFileError("its bytes are not those that were written")

    def take(self, name: str) -> Tensor:
        """The tensor of a name, which can be had once."""
        dtype, shape, start, end = self._places.pop(name)
        # torch's own memory is aligned as that of other tensors, so that sums over it round as they did before
        raw = torch.empty(end - start, dtype=torch.uint8)
        self._file.seek(self._start + start)
        if self._file.readinto(raw.numpy()) != end - start:  # type: ignore[attr-defined]
            raise DamagedFileError("it ends within a tensor")
        if dtype == torch.bool and len(raw) and int(raw.max()) > 1:
            raise DamagedFileError("truth values are neither 0 nor 1")
        return raw.view(dtype).reshape(shape)

    def check_all_taken(self) -> None:
        """Refuse tensors that nothing refers to."""
        if self._places:
            raise DamagedFileError(f"it holds tensors that belong to nothing: {', '.join(list(self._places)[:5])}")


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[TensorFile]:
    """Open a file, check it, and close it in the end.

    Raises
    ------
    ForeignFileError
        If skode has not written the file.
    DamagedFileError
        If its bytes are not those that were written, or not as skode would have written them.
    OSError
        If the file can't be read.
    """
    name = os.fspath(path)
    if not stat.S_ISREG(os.stat(name).st_mode):  # a pipe would be waited for
        raise ForeignFileError(f"{name} is not a file.")
    with open(name, "rb") as file:
        yield TensorFile(name, file, os.fstat(file.fileno()).st_size)


def _digest(file: IO[bytes]) -> bytes:
    """SHA-256 of a file but for the digits of its checksum, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    file.seek(0)
    digest.update(file.read(DIGEST_AT))
    file.seek(DIGEST_AT + N_DIGITS)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest().encode()


def _places(header: dict[str, Any], size: int) -> dict[str, tuple[torch.dtype, list[int], int, int]]:
    """Where tensors are in ``size`` bytes: they follow each other without a gap, and fill them."""
    places = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise DamagedFileError(f"{name!r} is not a tensor")
        dtype, shape, offsets = DTYPES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
        if dtype is None or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
            raise DamagedFileError(f"the tensor {name!r} has no type, shape or place")
        if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
            raise DamagedFileError(f"the tensor {name!r} is not as long as its shape")
        places[name] = (dtype, shape, *offsets)
    reached = 0
    for _, _, start, end in sorted(places.values(), key=lambda place: place[2:]):
        if start != reached:
            raise DamagedFileError("tensors overlap, or leave gaps")
        reached = end
    if reached != size:
        raise DamagedFileError("tensors do not end where the file does")
    return places


def _are_sizes(numbers: Any) -> bool:
    """Whether these are a list of numbers that may be sizes in bytes."""
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**62 for n in numbers)
