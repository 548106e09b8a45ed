import pytest

from tests.solvers.fused.comparison import Paths


@pytest.fixture
def paths(monkeypatch):
    """Solves by both paths."""
    return Paths(monkeypatch)
