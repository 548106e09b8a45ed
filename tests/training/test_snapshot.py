"""An answer is that of one model, whenever another fit of the estimator ends."""

import copy
import threading

import numpy as np
import pytest

from skode.training.snapshot import of_one_model, snapshot
from tests.every_estimator import cases

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


class Pair:
    def __init__(self, number):
        self.first = self.second = number

    @of_one_model
    def both(self, meanwhile):
        first = self.first
        meanwhile()
        return first, self.second


def test_a_method_reads_the_attributes_of_one_moment():
    pair = Pair(1)
    assert pair.both(lambda: vars(pair).update(vars(Pair(2)))) == (1, 1)
    assert pair.both(lambda: None) == (2, 2)
    copied = snapshot(pair)
    assert vars(copied) == vars(pair)
    assert type(copied) is Pair


@pytest.fixture(scope="module", params=cases())
def models(request):
    """Two models of one estimator, and its case."""
    case = cases()[request.param]
    old, new = (copy.deepcopy(case.estimator).fit(*data) for data in case.data)
    return case, old, new


def test_a_refit_at_any_moment_of_an_answer_leaves_it_that_of_one_model(models):
    case, old, new = models
    X = case.data[0][0]
    before, after = (case.answer(model, X) for model in (old, new))
    assert not np.array_equal(before, after)
    n_read, when = 0, None

    class Refitted(type(old)):
        def __getattribute__(self, name):
            nonlocal n_read
            if not name.startswith("__"):
                n_read += 1
                if n_read == when:
                    estimator.__dict__ = dict(vars(new))  # as the end of a fit does
            return super().__getattribute__(name)

    def answer():
        nonlocal estimator, n_read
        estimator, n_read = object.__new__(Refitted), 0
        vars(estimator).update(vars(old))
        return case.answer(estimator, X)

    estimator = None
    assert np.array_equal(answer(), before)
    moments = np.unique(np.linspace(1, n_read, min(n_read, 25)).astype(int))
    for when in moments:
        found = answer()
        assert np.array_equal(found, before) or np.array_equal(found, after), when


def test_a_thread_may_predict_while_another_refits():
    case = cases()["ODENetRegressor"]
    X, estimator = case.data[0][0], case.estimator
    known = [case.answer(copy.deepcopy(estimator).fit(*data), X) for data in case.data]
    estimator.fit(*case.data[0])
    found, errors = [], []

    def predict():
        try:
            found.extend(case.answer(estimator, X) for _ in range(100))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    n_fits = 0
    while any(thread.is_alive() for thread in threads):
        n_fits += 1
        estimator.fit(*case.data[n_fits % 2])
    assert not errors
    assert all(any(np.array_equal(answer, one) for one in known) for answer in found)
    assert n_fits > 1
