"""What goes wrong in one process ends the fit of all, or of none."""

import os
import signal
import time

import numpy as np
import pandas as pd
import pytest

from tests.distributed import mishaps
from tests.distributed.launch import Job


def run(tmp_path, name, *args):
    results = Job(tmp_path, f"tests.distributed.mishaps:{name}", *args).results()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def assert_same(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_allclose(value, other[key], rtol=tolerance, atol=tolerance, err_msg=key)


def test_errors_end_the_fit_in_all_processes_and_the_next_one_is_well(tmp_path):
    first, second = run(tmp_path, "errors")
    for found in (first, second):
        assert found["other data"].startswith(
            "ValueError: All processes of a fit have to fit the same, but X is not the same in ranks 0 and 1 (ndarray"
        )
        assert "but max_iter is 3 in rank 0 and 4 in rank 1" in found["other parameters"]
        assert found["bad data"].startswith("ValueError")
        assert "a table that is read in blocks does not go: pass the whole table" in found["parts in blocks"]
        assert found["None in one"] == "ValueError: An argument of fit is None in rank 1, but not in all processes."
        parts = "ValueError: The parts of the data do not go together: an argument of fit "
        assert found["other types"].startswith(f"{parts}is a frame in rank 0, but an array in rank 1.")
        assert found["other columns"].startswith(f"{parts}has the columns ['a', 'b', 'd'] in rank 0, but")
        assert found["other widths"].startswith(f"{parts}has rows of shape (3,) in rank 0, but (2,) in rank 1.")
        assert found["other contents"].startswith(f"{parts}holds numbers or dates in rank 0, but text in rank 1.")
        assert "All processes of a fit have to fit the same, but X is not" in found["other batches"]
        same = "ValueError: Within together() all processes have to ask the same of the same model, but "
        assert found["other X"].startswith(f"{same}X is not the same in ranks 0 and 1 (ndarray of shape (40, 3)")
        assert found["other models"].startswith(f"{same}the fitted model (module_) is not the same in ranks 0 and 1.")
        assert found["other tolerances"].startswith(f"{same}rtol is 1.0 in rank 0 and 0.1 in rank 1.")
        assert found["other calls"].startswith(f"{same}the call is predict in rank 0 and transform in rank 1.")
        assert found["answer fails"].startswith(f"{same}X is not the same")
    assert "ValueError" in second["one fails"]
    assert "out of order" in second["one fails"]
    assert first["one fails"].startswith("ProcessError: the fit failed in rank 1: ")
    assert "out of order" in first["one fails"]
    assert second["first fails"].startswith("ProcessError: the fit failed in rank 0: ")
    assert "NonFiniteDerivativeError" in second["first solve"]
    assert first["first solve"].startswith("SolveFailedElsewhereError: A solve failed in another process")
    assert_same(first["afterwards"], second["afterwards"])
    assert_same(first["afterwards"], numbers_alone(), 1e-10)


def numbers_alone():
    return mishaps.numbers(mishaps.regressor().fit(*mishaps.data()))


def test_a_solve_that_fails_in_one_process_sets_all_back(tmp_path):
    (first, warned), (second, also) = run(tmp_path, "recovered")
    assert_same(first, second)
    for messages in (warned, also):
        assert any("Training diverged 1 time(s)" in message for message in messages)


def test_scopes(tmp_path):
    first, second = run(tmp_path, "scopes")
    alone = numbers_alone()
    for found in (first, second):
        assert_same(found["whole"], alone, 1e-10)
        assert_same(found["parts"], alone, 1e-10)
        assert_same(found["thread"], alone)
        assert_same(found["predictions"], found["by itself"], 1e-12)
        np.testing.assert_allclose(found["equations"]["k"], 1.0, rtol=1e-6)
        assert found["called back"]["epochs"] == 2
    assert_same(first["alone"], alone)
    assert "alone" not in second
    assert_same(first["predictions"], second["predictions"])
    assert_same(first["workers"], second["workers"])


def test_an_interruption_of_one_ends_all_and_they_go_on(tmp_path):
    results = run(tmp_path, "interrupted", str(tmp_path / "fit.checkpoint"))
    for reason, n, resumed, undisturbed in results:
        assert reason == "interrupted"
        assert n == 1
        assert_same(resumed, undisturbed)
    assert results[0][1] == results[1][1]
    assert_same(results[0][2], results[1][2])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed"), "long_fit")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_dies_is_named_and_the_others_go_on_later(tmp_path, undisturbed, killed):
    path = str(tmp_path / "fit.checkpoint")
    job = Job(tmp_path / "first", "tests.distributed.mishaps:long_fit", path)
    try:
        until = time.monotonic() + 60
        while not os.path.exists(path) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(job.ranks[killed].pid, signal.SIGKILL)
        began = time.monotonic()
        results = job.results(timeout=60)
        assert time.monotonic() - began < 60
    finally:
        job.kill()
    assert results[killed] is None
    error = results[1 - killed]
    assert type(error).__name__ == "ProcessError", error
    assert f"rank {killed} ended or can't be reached" in str(error)
    resumed = run(tmp_path / "again", "long_fit", path)
    for own, whole in zip(resumed, undisturbed, strict=True):
        assert_same(own, whole)


def test_a_process_that_ends_without_the_fit_is_named(tmp_path):
    job = Job(tmp_path, "tests.distributed.mishaps:only_first")
    message, seconds = job.results(timeout=60)[0]
    assert message.startswith("ProcessError: Of 2 processes, rank 1 ended")
    assert seconds < 45


def test_parts_have_the_categories_of_all():
    from skode.training.company import _put_together

    parts = [
        pd.DataFrame({"b": pd.Categorical(["z", "y"]), "a": [1, 2]}, index=[5, 6]),
        pd.DataFrame({"a": [3.5], "b": pd.Categorical(["x"])}, index=[7]),
    ]
    whole = pd.DataFrame({"b": pd.Categorical(["z", "y", "x"]), "a": [1, 2, 3.5]}, index=[5, 6, 7])
    pd.testing.assert_frame_equal(_put_together(parts), whole)
    assert _put_together([np.ones((2, 3)), []]).shape == (2, 3)
    ordered = [pd.Series(pd.Categorical(["x"], categories, ordered=True)) for categories in (["x", "y"], ["y", "x"])]
    with pytest.raises(ValueError, match="has categories in the order"):
        _put_together(ordered)


def test_together_needs_several_processes():
    import skode.distributed

    with pytest.raises(RuntimeError, match="start them by torchrun"), skode.distributed.together():
        pass
