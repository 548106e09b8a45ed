"""Attributes of the results of solves."""

import copy
import pickle

import torch

from skode.solvers import solve_ivp


def test_solutions_can_be_copied_and_pickled():
    solution = solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2), dense_output=True)
    for again in (copy.deepcopy(solution), pickle.loads(pickle.dumps(solution))):
        assert torch.equal(again.sol(0.3), solution.sol(0.3))
