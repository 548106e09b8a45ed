"""Files as disks, networks and editors damage them, and as someone may who knows the format."""

import copy
import json

from tests.persistence.attacks import signed

DAMAGES = ("flipped", "cut", "added", "swapped")


def damaged(content, kind, rng):
    """Bytes of a file that differ from the given ones.

    Parameters
    ----------
    content : bytes
        The file.
    kind : {"flipped", "cut", "added", "swapped"}
        One bit that is another one; the end that is missing; bytes in between, or behind; two stretches that have
        changed their places.
    rng : Generator
        Source of the places.
    """
    changed = content
    while changed == content:
        changed = _DAMAGE[kind](bytearray(content), rng)
    return bytes(changed)


def _flipped(content, rng):
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return content


def _cut(content, rng):
    return content[: rng.integers(len(content))]


def _added(content, rng):
    place = rng.choice([rng.integers(len(content)), len(content)])
    return content[:place] + rng.bytes(rng.integers(1, 100)) + content[place:]


def _swapped(content, rng):
    length = rng.integers(1, 32)
    a, b = sorted(rng.integers(len(content) - length, size=2))
    b = max(b, a + length)
    content[a : a + length], content[b : b + length] = content[b : b + length], content[a : a + length]
    return content


_DAMAGE = {"flipped": _flipped, "cut": _cut, "added": _added, "swapped": _swapped}


def forged(content, rng):
    """A file whose description says something else at a few places, with the checksum that belongs to it.

    Parameters
    ----------
    content : bytes
        The file.
    rng : Generator
        Source of the places, and of what is said there.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    document = json.loads(header["__metadata__"]["skode"])
    pool = copy.deepcopy(document["objects"])
    for _ in range(rng.integers(1, 4)):
        where = document["objects"] if rng.random() < 0.9 else header
        _change(where, pool, rng)
    header["__metadata__"]["skode"] = json.dumps(document, separators=(",", ":"))
    text = json.dumps(header, separators=(",", ":")).encode()
    return signed(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _change(where, pool, rng):
    """Put something else at a place in lists and dicts."""
    while True:
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        if not keys:
            return
        key = keys[rng.integers(len(keys))]
        if key == "__metadata__":
            return
        if not isinstance(where[key], list | dict) or rng.random() < 0.2:
            break
        where = where[key]
    other = pool[rng.integers(len(pool))]
    strange = (
        None,
        True,
        -1,
        2**62,
        0.5,
        "",
        "a",
        "0",
        "<f8",
        "|O",
        [],
        [0],
        [len(pool) - 2],
        {},
        {"str": "0", "ends": "1"},
    )
    choices = (*strange, other, *other[:1], *other[-1:], where[keys[rng.integers(len(keys))]])
    where[key] = copy.deepcopy(choices[rng.integers(len(choices))])
