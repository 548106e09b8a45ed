"""All that files hold, by kinds of objects; the codec of an object is found by its type."""

from __future__ import annotations

from typing import Any

from torch import nn

from skode.persistence.codecs.arrays import ARRAYS
from skode.persistence.codecs.builtin import BUILTIN
from skode.persistence.codecs.dates import DATES
from skode.persistence.codecs.frames import FRAMES, OFFSET, offset_of
from skode.persistence.codecs.objects import MODULE, OBJECT
from skode.persistence.codecs.references import REFERENCE_CODECS, reference_of
from skode.persistence.codecs.tensors import TENSORS
from skode.persistence.encoder import Codec

BY_TYPE = BUILTIN | DATES | ARRAYS | TENSORS | FRAMES

BY_TAG = {codec.tag: codec for codec in (*BY_TYPE.values(), *REFERENCE_CODECS, OFFSET, MODULE, OBJECT)}


def codec_of(x: Any) -> Codec | None:
    """The codec that writes an object; None if it can't be written."""
    found = BY_TYPE.get(type(x)) or reference_of(x) or offset_of(x)
    if found is not None:
        return found
    return MODULE if isinstance(x, nn.Module) else OBJECT
