"""Memory is handed on by its key, within bounds."""

from skode.solvers.idle_memory import IdleMemory


class Piece:
    def __init__(self, size=10):
        self.size = size

    def nbytes(self):
        return self.size


def test_what_is_given_is_taken_again_once_and_by_its_key_only():
    pool, piece = IdleMemory(), Piece()
    pool.give("a", piece)
    assert pool.bytes == 10
    assert pool.take("b", Piece) is not piece
    assert pool.take("a", Piece) is piece
    assert pool.bytes == 0
    assert pool.take("a", Piece) is not piece


def test_a_pool_holds_no_more_than_its_bound():
    pool = IdleMemory(most_bytes=30)
    for _ in range(5):
        pool.give("a", Piece())
    assert pool.bytes == 30
    assert len(pool.idle["a"]) == 3
    pool.give("b", Piece(0))
    assert len(pool.idle["b"]) == 1
    pool.clear()
    assert pool.bytes == 0
    assert not pool.idle
