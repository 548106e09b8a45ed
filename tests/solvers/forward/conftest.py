"""The fixtures of solves that run ahead of the host."""

from tests.solvers.ahead import agree, ahead, outcome_fixture, replays, with_gradients_fixture

__all__ = ["agree", "ahead", "outcome_fixture", "replays", "with_gradients_fixture"]
