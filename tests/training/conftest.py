import types

import pytest

from skode.training import stopwatch


@pytest.fixture
def now(monkeypatch):
    """The time, which stands still unless ``seconds`` is raised."""
    clock = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(stopwatch, "time", types.SimpleNamespace(perf_counter=lambda: clock.seconds))
    return clock
