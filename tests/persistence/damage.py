"""Files as disks, networks and editors damage them."""

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
