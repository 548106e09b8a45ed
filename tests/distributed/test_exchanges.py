"""How often the processes of a fit wait for each other, as docs/guide/processes_scaling.md says."""

import pytest
import torch

from tests.distributed.exchanges import counted
from tests.distributed.launch import Job

#: Roll calls of an update apart from those of the attempted steps of its solves, by the fit: one before the gradients
#: are summed; of latent ODEs, one for each direction of time that solves may take, and one for the number of values.
FIXED = {"classifier": 1, "density": 1, "fixed steps": 1, "flow matching": 1, "latent": 4}

#: Bytes of a roll call to each process: six numbers.
ROLL_CALL = 48


@pytest.fixture(scope="module")
def of_three(tmp_path_factory):
    """Of each of three processes its updates, by fit, and its sums."""
    folder = tmp_path_factory.mktemp("exchanges")
    results = Job(folder, "tests.distributed.exchanges:all_of", list(FIXED), size=3).results()
    for result in results:
        if not isinstance(result, tuple):
            raise AssertionError(result)
    return results


@pytest.mark.parametrize("name", list(FIXED))
def test_an_update_has_a_roll_call_for_each_step_and_one_sum_of_gradients(of_three, name):
    for updates in (result[0][name] for result in of_three):
        assert len(updates) > 1
        for number, update in enumerate(updates):
            steps = 0 if name == "fixed steps" else update.attempts
            # The first solve of all finds the size of its first step, by three norms; the next know the last one's.
            starts = 3 if number == 0 and name in ("density", "latent") else 0
            assert update.roll_calls == steps + FIXED[name] + starts
            # Each process adds up its part of the gradient, and sends it to the others.
            numbers = update.gradient // 8
            part = 8 * 3 * ((numbers + 2) // 3)
            assert update.exchanges == [3 * ROLL_CALL] * update.roll_calls + [part, part]


def test_sums_are_those_of_all_and_the_same_to_the_bit(of_three):
    for of_each in zip(*(sums for _, sums in of_three), strict=True):
        expected = torch.stack([own for own, _ in of_each]).sum(0)
        for _, summed in of_each:
            torch.testing.assert_close(summed, expected, rtol=1e-14, atol=1e-14)
            assert torch.equal(summed, of_each[0][1])


def test_alone_there_are_none():
    for updates in counted(["classifier", "latent"]).values():
        assert len(updates) > 1
        assert not any(update.exchanges for update in updates)
