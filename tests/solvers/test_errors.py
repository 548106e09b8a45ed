"""Errors say where a solve failed and what to try, and travel between processes."""

import pickle

import pytest

from skode.solvers import MaxStepsError, NonFiniteDerivativeError, SolverError, StepSizeUnderflowError

TYPES = [SolverError, NonFiniteDerivativeError, StepSizeUnderflowError, MaxStepsError]


@pytest.fixture(params=TYPES)
def error(request):
    return request.param("It broke", time=1.5, step_size=-0.25, advice="Mend it.")


def test_all_are_solver_errors_and_runtime_errors(error):
    assert isinstance(error, SolverError)
    assert isinstance(error, RuntimeError)


def test_the_message_gives_reason_time_step_size_and_advice(error):
    assert str(error) == "It broke at t=1.5 with step size -0.25. Mend it."
    assert (error.time, error.step_size, error.advice) == (1.5, -0.25, "Mend it.")


def test_errors_survive_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert (again.time, again.step_size, again.advice) == (error.time, error.step_size, error.advice)


def test_where_no_single_step_failed_the_message_has_none():
    error = SolverError("The equations can't be solved", time=2.0, advice="Start elsewhere.")
    assert str(error) == "The equations can't be solved at t=2. Start elsewhere."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
