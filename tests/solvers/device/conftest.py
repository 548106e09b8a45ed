"""The fixtures of solves that run ahead of the host."""

from tests.solvers.ahead import (
    agree,
    ahead,
    mlp,
    move,
    outcome_fixture,
    randn_fixture,
    replays,
    solved,
    with_gradients_fixture,
    y0,
)

__all__ = [
    "agree",
    "ahead",
    "mlp",
    "move",
    "outcome_fixture",
    "randn_fixture",
    "replays",
    "solved",
    "with_gradients_fixture",
    "y0",
]
