import math
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skode.solvers import SolverError, Statistics, devices
from skode.training import Solver, TrainingSettings, train
from skode.training.loop import MAX_RECOVERIES, _Training
from skode.training.stopwatch import Stopwatch

TARGET = torch.tensor([[1.0, -2.0]], dtype=torch.float64)


class Quadratic:
    """The squared distance of a weight and a bias from their targets; each sample's is the same."""

    def __init__(self):
        self.weight = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        self.bias = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        self.solver = Solver().counting()
        self.batches = []
        self.parts = [self.weight, self.bias]

    def parameters(self):
        return [self.weight, self.bias]

    def loss(self, rows):
        self.batches.append(rows.copy())
        self.solver.solves.append(Statistics(nfev=10 * len(self.batches), nfev_backward=3))
        return ((self.weight - TARGET) ** 2).sum() + ((self.bias - 1.0) ** 2).sum()


def solver_error():
    return SolverError("step size underflow", time=0.5, step_size=1e-20, advice="Loosen the tolerances.")


def settings(**changed):
    return TrainingSettings(
        **{"learning_rate": 0.1, "batch_size": 4, "max_iter": 200, "tol": 1e-6, "n_iter_no_change": 5, **changed}
    )


def run(objective, n_samples=8, *, seed=0, validate=None, on_epoch=None, **changed):
    rng = np.random.RandomState(seed)
    return train(objective, n_samples, settings(**changed), rng, validate=validate, on_epoch=on_epoch)


def quietly(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return run(*args, **kwargs)


# Minimising


def test_it_finds_the_minimum():
    objective = Quadratic()
    record = run(objective, max_iter=2000, tol=1e-12, n_iter_no_change=100)
    assert record.converged
    torch.testing.assert_close(objective.weight.detach(), TARGET, atol=1e-3, rtol=0)
    assert record.loss_curve[-1] < 1e-5


def test_an_epoch_visits_every_sample_once_in_batches():
    objective = Quadratic()
    quietly(objective, 10, max_iter=2)
    assert [len(rows) for rows in objective.batches] == [4, 4, 2, 4, 4, 2]
    for epoch in (objective.batches[:3], objective.batches[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(10))


def test_shuffling_is_by_the_generator_given():
    orders = []
    for seed in (0, 0, 1):
        objective = Quadratic()
        quietly(objective, 10, seed=seed, max_iter=1)
        orders.append(np.concatenate(objective.batches).tolist())
    assert orders[0] == orders[1] != orders[2]


def test_without_shuffling_samples_keep_their_order():
    objective = Quadratic()
    quietly(objective, 10, max_iter=1, shuffle=False)
    assert np.concatenate(objective.batches).tolist() == list(range(10))


def test_counts_of_evaluations_are_means_over_each_epochs_solves():
    record = quietly(Quadratic(), 8, max_iter=2)
    assert record.nfe_forward == [15.0, 35.0]  # 10 and 20, then 30 and 40
    assert record.nfe_backward == [3.0, 3.0]


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples():
    class BySize(Quadratic):
        def loss(self, rows):
            return super().loss(rows) * 0 + len(rows)

    record = quietly(BySize(), 5, max_iter=1)
    assert record.loss_curve == [pytest.approx((4 * 4 + 1 * 1) / 5)]


# The penalty


def test_alpha_draws_weights_to_zero_and_leaves_biases_alone():
    free, held = Quadratic(), Quadratic()
    quietly(free, max_iter=300, n_iter_no_change=None)
    quietly(held, max_iter=300, n_iter_no_change=None, alpha=8.0)
    torch.testing.assert_close(held.bias.detach(), free.bias.detach(), rtol=1e-10, atol=1e-12)
    # minimum of (w - w*)^2 + alpha / (2 batch_size) w^2, with alpha / batch_size = 2
    torch.testing.assert_close(held.weight.detach(), TARGET / 2, atol=1e-3, rtol=0)


# Stopping


def test_training_stops_when_the_loss_stands_still():
    record = run(Quadratic(), tol=1e9, n_iter_no_change=3)
    assert len(record.loss_curve) == 4  # the first epoch improves on nothing
    assert record.converged
    assert record.stopped_because.startswith("the training loss did not improve by more than tol=")


def test_without_n_iter_no_change_it_goes_on_to_max_iter():
    record = quietly(Quadratic(), tol=1e9, n_iter_no_change=None, max_iter=7)
    assert len(record.loss_curve) == 7
    assert not record.converged


def test_max_iter_warns():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached.*set early_stopping=True"):
        run(Quadratic(), max_iter=3)


def test_early_stopping_is_not_advised_where_there_is_a_validation_score():
    with pytest.warns(ConvergenceWarning, match=r"Raise max_iter or tol\.$"):
        run(Quadratic(), max_iter=3, validate=iter(range(9)).__next__)


def test_a_callback_can_stop_it():
    record = run(Quadratic(), on_epoch=lambda record: len(record.loss_curve) == 2)
    assert len(record.loss_curve) == 2
    assert record.converged
    assert "callback" in record.stopped_because


def test_the_best_weights_by_validation_are_kept():
    objective = Quadratic()
    scores, seen = iter([1.0, 3.0, 2.0, 0.0]), []

    def validate():
        seen.append(objective.weight.detach().clone())
        return next(scores)

    record = quietly(objective, max_iter=4, validate=validate)
    assert record.validation_scores == [1.0, 3.0, 2.0, 0.0]
    assert torch.equal(objective.weight.detach(), seen[1])


def test_a_small_improvement_is_kept_but_does_not_prolong_training():
    objective = Quadratic()
    scores, seen = iter([0.0, 0.1, 0.2, 0.3]), []

    def validate():
        seen.append(objective.weight.detach().clone())
        return next(scores)

    record = run(objective, validate=validate, tol=1.0, n_iter_no_change=3)
    assert len(record.validation_scores) == 4
    assert torch.equal(objective.weight.detach(), seen[3])


def noisy(averaging):
    """A quadratic whose gradient is noisy, with its distance from the minimum after each epoch as validated."""

    class Noisy(Quadratic):
        noise = np.random.RandomState(0)

        def loss(self, rows):
            off = torch.as_tensor(self.noise.normal(size=(1, 2)) * 2.0)
            return super().loss(rows) + (self.weight * off).sum()

    objective = Noisy()
    distances = []

    def validate():
        distances.append(float((objective.weight.detach() - TARGET).norm()))
        return -distances[-1]

    record = quietly(objective, validate=validate, max_iter=300, n_iter_no_change=None, averaging=averaging)
    return objective, record, distances


def test_validation_looks_at_the_running_mean_of_the_weights_which_varies_less():
    plain, averaged = noisy(0.0)[2], noisy(0.98)[2]
    assert np.mean(averaged[100:]) < 0.6 * np.mean(plain[100:])


def test_the_running_mean_that_was_best_is_what_is_kept():
    objective, record, distances = noisy(0.98)
    assert float((objective.weight.detach() - TARGET).norm()) == pytest.approx(min(distances), rel=1e-12)
    assert max(record.validation_scores) == -min(distances)


def test_training_itself_does_not_notice_the_mean():
    curves = [noisy(averaging)[1].loss_curve for averaging in (0.0, 0.98)]
    assert curves[0] == curves[1]


def test_a_validation_that_fails_counts_as_the_worst():
    objective = Quadratic()
    outcomes = iter([1.0, solver_error(), 0.5])

    def validate():
        outcome = next(outcomes)
        if isinstance(outcome, SolverError):
            raise outcome
        return outcome

    assert quietly(objective, max_iter=3, validate=validate).validation_scores == [1.0, -math.inf, 0.5]


# Trouble


class Failing(Quadratic):
    """Fails in one batch in the way given."""

    def __init__(self, how, when):
        super().__init__()
        self.how, self.when = how, when

    def loss(self, rows):
        loss = super().loss(rows)
        if len(self.batches) - 1 in self.when:
            if isinstance(self.how, BaseException):
                raise self.how
            return loss * self.how
        return loss


@pytest.mark.parametrize("how", [math.nan, math.inf, solver_error()])
def test_a_failure_goes_back_to_the_weights_before_the_epoch_and_learns_more_slowly(how):
    objective = Failing(how, when=[3])  # the second batch of the second epoch
    with pytest.warns(ConvergenceWarning, match=r"Training diverged 1 time\(s\) \(iteration 2: .*lowered to 0.03"):
        record = run(objective, max_iter=10)
    assert len(record.loss_curve) == 9
    assert torch.isfinite(objective.weight).all()
    assert record.loss_curve[-1] < record.loss_curve[0]


def test_a_gradient_that_is_not_finite_is_a_failure():
    class Steep(Quadratic):
        def loss(self, rows):
            # 0 in value at first, where its slope is 0 times infinity
            return super().loss(rows) + torch.sqrt(self.bias**2).sum()

    objective = Steep()
    with pytest.warns(ConvergenceWarning, match="the gradient became infinite or NaN"):
        run(objective, max_iter=10)
    assert not objective.weight.any()  # as it began


def test_training_that_diverges_again_and_again_ends_with_the_last_good_weights():
    objective = Failing(math.nan, when=range(4, 1000))
    with pytest.warns(ConvergenceWarning, match=rf"Training diverged {MAX_RECOVERIES + 1} time\(s\)"):
        record = run(objective)
    assert record.stopped_because == "training diverged again and again"
    assert len(record.loss_curve) == 2
    assert torch.isfinite(objective.weight).all()
    assert objective.weight.any()


def test_a_learning_rate_far_too_large_ends_with_finite_weights():
    class Exponential(Quadratic):
        def loss(self, rows):
            return super().loss(rows) + torch.exp(self.weight**2).sum()

    objective = Exponential()
    with pytest.warns(ConvergenceWarning, match="Lower learning_rate_init"):
        run(objective, learning_rate=1e6, max_iter=10)
    assert torch.isfinite(objective.weight).all()


def test_a_model_that_cannot_be_evaluated_at_all_is_an_error():
    with pytest.raises(SolverError, match="step size underflow"):
        run(Failing(solver_error(), when=[0]))


def test_an_error_of_another_kind_is_passed_on():
    with pytest.raises(ZeroDivisionError):
        run(Failing(ZeroDivisionError(), when=[3]))


def test_an_interruption_keeps_what_was_learned():
    objective = Failing(KeyboardInterrupt(), when=[5])
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        record = run(objective)
    assert record.stopped_because == "interrupted"
    assert len(record.loss_curve) == 2
    assert objective.weight.any()


def test_gradients_are_clipped_to_the_norm_given():
    norms = []

    class Watched(Quadratic):
        def loss(self, rows):
            norms.append(math.sqrt(sum(float((p.grad**2).sum()) for p in self.parameters() if p.grad is not None)))
            return super().loss(rows) * 1e6

    objective = Watched()
    quietly(objective, 4, max_iter=1, max_grad_norm=0.5)
    final = math.sqrt(sum(float((p.grad**2).sum()) for p in objective.parameters()))
    assert final == pytest.approx(0.5, rel=1e-4)


def test_a_gradient_within_the_norm_is_left_as_it_is():
    plain, bounded = Quadratic(), Quadratic()
    quietly(plain, 4, max_iter=1)
    quietly(bounded, 4, max_iter=1, max_grad_norm=1e3)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), bounded.parameters(), strict=True))


# Output


def printed(capsys):
    """The numbers of each epoch's line, by name; the last line."""
    *lines, last = capsys.readouterr().out.splitlines()
    pattern = re.compile(
        r"Epoch +(?P<epoch>\d+)/(?P<of>\d+): loss (?P<loss>\S+)(?:, validation score (?P<score>\S+))?"
        r"(?:, evaluations (?P<forward>\S+) forward \+ (?P<backward>\S+) backward)?, (?P<seconds>\d+\.\d\d) s"
        r"; (?P<in_all>.+) in all, about (?P<left>.+) left"
    )
    return [pattern.fullmatch(line).groupdict() for line in lines], last


def test_verbose_prints_a_line_per_epoch_with_the_numbers_of_the_curves(capsys):
    scores = iter([0.25, 0.5, 0.75])
    record = quietly(Quadratic(), max_iter=3, verbose=True, validate=lambda: next(scores))
    lines, last = printed(capsys)
    assert [(line["epoch"], line["of"]) for line in lines] == [("1", "3"), ("2", "3"), ("3", "3")]
    assert [float(line["loss"]) for line in lines] == pytest.approx(record.loss_curve, abs=5e-7)
    assert [float(line["score"]) for line in lines] == record.validation_scores == [0.25, 0.5, 0.75]
    assert [float(line["forward"]) for line in lines] == record.nfe_forward
    assert [float(line["backward"]) for line in lines] == record.nfe_backward
    assert last == "Training ended after 3 epochs: max_iter was reached."


def test_verbose_leaves_out_what_there_is_not(capsys):
    class Unsolved(Quadratic):
        def loss(self, rows):
            loss = super().loss(rows)
            self.solver.solves.clear()
            return loss

    quietly(Unsolved(), max_iter=1, verbose=True)
    (line,), _ = printed(capsys)
    assert line["score"] is line["forward"] is line["backward"] is None


def test_verbose_says_why_it_stopped(capsys):
    run(Quadratic(), tol=1e9, n_iter_no_change=1, verbose=True, validate=lambda: 0.25)
    lines, last = printed(capsys)
    assert last.startswith(f"Training ended after {len(lines)} epochs: the validation score did not improve")


def test_verbose_tells_of_an_epoch_that_diverged(capsys):
    class Failing(Quadratic):
        def loss(self, rows):
            if len(self.batches) == 3:
                self.batches.append(rows)
                raise solver_error()
            return super().loss(rows)

    quietly(Failing(), max_iter=3, verbose=True)
    line = capsys.readouterr().out.splitlines()[1]
    assert line == ("Epoch 2 diverged (step size underflow at t=0.5); going back to the weights of before.")


def test_a_phase_of_training_is_named(capsys):
    quietly(Quadratic(), max_iter=1, verbose=True, phase="Flow matching")
    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith("Flow matching: epoch 1/1: loss ")
    assert last.startswith("Flow matching ended after 1 epochs")


def test_it_is_silent_otherwise(capsys):
    quietly(Quadratic(), max_iter=3)
    assert capsys.readouterr().out == ""


# The learning rate


def rates(**changed):
    """The learning rate of every update, seen by how far the first steps of Adam go."""
    objective, seen = Quadratic(), []
    weight = objective.weight
    before = weight.detach().clone()

    def loss(rows):
        nonlocal before
        seen.append(float((weight.detach() - before).abs().max()))
        before = weight.detach().clone()
        return 1e-3 * (weight * TARGET).sum() + 0.0 * objective.bias.sum()  # a gradient that never changes

    objective.loss = loss
    record = quietly(objective, n_iter_no_change=None, **changed)
    return np.array(seen[1:]), record


def test_the_learning_rate_follows_half_a_cosine():
    seen, record = rates(schedule="cosine", max_iter=10)
    progress = np.arange(len(seen)) / (len(seen) + 1)
    np.testing.assert_allclose(seen, 0.1 * 0.5 * (1 + np.cos(np.pi * progress)), rtol=1e-4)
    assert record.converged
    assert "come down" in record.stopped_because


def test_a_schedule_that_has_ended_is_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(Quadratic(), max_iter=3, schedule="cosine", n_iter_no_change=None)


def test_the_learning_rate_is_constant_otherwise():
    seen, _ = rates(max_iter=10)
    np.testing.assert_allclose(seen, 0.1, rtol=1e-4)


# On a device that is not to be waited for


@pytest.fixture
def not_waited_for():
    devices.ASYNCHRONOUS.add("cpu")
    yield
    devices.ASYNCHRONOUS.discard("cpu")


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_training_that_does_not_wait_learns_the_same(not_waited_for, max_grad_norm, optimizer):
    class Indexed(Quadratic):
        def loss(self, rows):
            assert isinstance(rows, torch.Tensor)
            return super().loss(np.asarray(rows))

    ahead = Indexed()
    record = run(ahead, max_grad_norm=max_grad_norm, optimizer=optimizer)
    devices.ASYNCHRONOUS.discard("cpu")
    usual = Quadratic()
    expected = run(usual, max_grad_norm=max_grad_norm, optimizer=optimizer)
    np.testing.assert_allclose(record.loss_curve, expected.loss_curve, rtol=1e-12)
    torch.testing.assert_close(ahead.weight, usual.weight, rtol=1e-12, atol=1e-12)
    for one, other in zip(ahead.batches, usual.batches, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_from_the_first_number_that_is_not_finite_on_weights_stay(not_waited_for, what, optimizer):
    class Poisoned(Quadratic):
        def loss(self, rows):
            n = len(self.batches)
            loss = super().loss(np.asarray(rows))
            if n == 3:
                self.before = self.weight.detach().clone()
                # The root's derivative at 0 is infinite, and 0 times that is not a number.
                loss = loss * math.nan if what == "loss" else loss + torch.sqrt((self.weight * 0.0).square()).sum()
            if n == 5:
                self.later = self.weight.detach().clone()
            return loss

    objective = Poisoned()
    with pytest.warns(ConvergenceWarning, match="the loss or its gradient became infinite or NaN"):
        run(objective, 64, max_iter=3, n_iter_no_change=None, optimizer=optimizer)
    torch.testing.assert_close(objective.later, objective.before, rtol=0.0, atol=0.0)
    assert torch.isfinite(objective.weight).all()


# Another optimiser


def test_the_other_optimiser_finds_the_minimum():
    objective = Quadratic()
    run(objective, max_iter=2000, tol=1e-12, n_iter_no_change=100, optimizer="soap")
    torch.testing.assert_close(objective.weight.detach(), TARGET, atol=1e-3, rtol=0)
    torch.testing.assert_close(objective.bias.detach(), torch.ones(2, dtype=torch.float64), atol=1e-3, rtol=0)


def test_the_other_optimiser_has_the_penalty_and_leaves_biases_alone():
    held = Quadratic()
    quietly(held, max_iter=600, n_iter_no_change=None, alpha=8.0, optimizer="soap", schedule="cosine")
    torch.testing.assert_close(held.weight.detach(), TARGET / 2, atol=1e-3, rtol=0)


# Time


class Timed(Quadratic):
    """The same, an update of which takes a second."""

    def __init__(self, now, seconds=lambda n: 1.0):
        super().__init__()
        self.now, self.seconds = now, seconds

    def loss(self, rows):
        self.now.seconds += self.seconds(len(self.batches))
        return super().loss(rows)


def validation(now, seconds):
    """A validation that takes so many seconds, and whose scores rise."""
    scores = iter(range(1000))

    def validate():
        now.seconds += seconds
        return float(next(scores))

    return validate


def timed_run(now, max_time, *, n_updates_an_epoch=4, seconds=lambda n: 1.0, **changed):
    objective = Timed(now, seconds)
    stopwatch = Stopwatch(max_time)
    after = changed.pop("after", None)
    if after is not None:
        stopwatch.after_training = lambda: after
    validate = changed.pop("validate", None)
    all_settings = {"n_iter_no_change": None, "schedule": "cosine", **changed, "stopwatch": stopwatch}
    record = quietly(objective, 4 * n_updates_an_epoch, validate=validate, **all_settings)
    return objective, record, stopwatch


def test_training_ends_with_the_update_in_which_its_time_is_over(now):
    objective, record, stopwatch = timed_run(now, 9.5)
    assert len(objective.batches) == stopwatch.elapsed == 10
    assert len(record.loss_curve) == len(record.nfe_forward) == 3  # of the last epoch, one half
    assert record.stopped_because.startswith("max_time=9.5 was reached")
    assert record.converged


@pytest.mark.parametrize(("validating", "after"), [(0.0, 0.0), (1.5, 0.0), (0.0, 4.0), (1.5, 4.0)])
def test_validation_and_the_phases_after_training_have_their_time(now, validating, after):
    _, record, stopwatch = timed_run(now, 30.0, validate=validation(now, validating), after=after)
    # An update may take it beyond its time; what is left is not enough for another one with its validation.
    assert 30.0 - 1.0 - validating <= stopwatch.elapsed + after <= 30.0 + 1.0
    assert len(record.validation_scores) == len(record.loss_curve)


def test_of_several_passes_an_epoch_the_time_ends_all(now):
    objective, record, _ = timed_run(now, 9.5, passes=3)
    assert len(objective.batches) == 10
    assert len(record.loss_curve) == 1


def test_a_limit_far_away_changes_nothing(now):
    free, near = timed_run(now, None, max_iter=7), timed_run(now, 1e9, max_iter=7)
    assert near[1].loss_curve == free[1].loss_curve
    assert near[1].stopped_because == free[1].stopped_because == "the learning rate has come down to 0"


def test_all_epochs_in_the_last_moment_are_all_epochs(now):
    _, record, _ = timed_run(now, 12.0, max_iter=3)
    assert len(record.loss_curve) == 3
    assert record.stopped_because == "the learning rate has come down to 0"


def test_however_little_time_there_is_one_update_is_made(now):
    objective, record, _ = timed_run(now, 1e-3, validate=validation(now, 5.0))
    assert len(objective.batches) == 1
    assert len(record.validation_scores) == 1
    assert objective.weight.detach().abs().min() > 0.05  # at the full learning rate


def test_the_best_weights_by_validation_are_kept_at_the_limit(now):
    scores = iter([0.0, 1.0, 3.0, 2.0, 2.0])  # the first before training, to know how long it takes
    seen = []

    def validate():
        seen.append(objective.weight.detach().clone())
        return next(scores)

    objective = Timed(now)
    quietly(objective, 16, max_iter=9, n_iter_no_change=None, stopwatch=Stopwatch(13.5), validate=validate)
    assert len(seen) == 5
    assert torch.equal(objective.weight.detach(), seen[2])


def timed_rates(now, max_time, max_iter):
    """The learning rates of all updates, four an epoch."""
    rates = []
    chosen = settings(schedule="cosine", max_iter=max_iter, n_iter_no_change=None, stopwatch=Stopwatch(max_time))
    training = _Training(Timed(now), 16, chosen, np.random.RandomState(0), None, None)
    optimizer, step = training.optimizer, training.optimizer.step
    optimizer.step = lambda: (rates.append(optimizer.learning_rate), step())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.run()
    return rates


def cosine(n):
    return 0.1 * 0.5 * (1.0 + np.cos(np.pi * np.arange(n) / n))


def test_the_cosine_follows_the_time_where_epochs_are_too_many(now):
    # Also of an epoch in the middle of which the time ends, and without a warning.
    np.testing.assert_allclose(timed_rates(now, 18.0, max_iter=1000), cosine(18), rtol=1e-12)


def test_the_cosine_follows_the_epochs_where_these_are_sooner_over(now):
    np.testing.assert_allclose(timed_rates(now, 40.0, max_iter=5), cosine(20), rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "max_time"), [("constant", 9.5), ("cosine", 2.5)], ids=["constant rate", "not one epoch"]
)
def test_a_limit_that_comes_too_early_warns(now, schedule, max_time):
    with pytest.warns(ConvergenceWarning, match=rf"max_time={max_time} ended training in epoch .* Raise max_time"):
        run(Timed(now), 16, schedule=schedule, n_iter_no_change=None, stopwatch=Stopwatch(max_time))


def test_an_epoch_that_diverges_does_not_outlast_the_limit(now):
    class Failing(Timed):
        def loss(self, rows):
            loss = super().loss(rows)
            return loss * math.nan if len(self.batches) == 6 else loss

    objective = Failing(now)
    record = quietly(objective, 16, n_iter_no_change=None, stopwatch=Stopwatch(9.5))
    assert len(objective.batches) == 10 + 4  # the last look whether the weights are usable
    assert len(record.loss_curve) == 2
    assert "max_time" in record.stopped_because


def test_verbose_estimates_the_time_left_of_epochs_that_get_slower(now, capsys):
    quietly(
        Timed(now, lambda n: 1.0 + n // 2),  # epochs of 2, 4, 6, ... seconds
        8,
        max_iter=6,
        n_iter_no_change=None,
        stopwatch=Stopwatch(verbose=True),
        verbose=True,
    )
    lines, _ = printed(capsys)
    assert [line["in_all"] for line in lines] == ["2.0 s", "6.0 s", "12 s", "20 s", "30 s", "42 s"]
    assert [line["left"] for line in lines[3:]] == ["22 s", "12 s", "0.0 s"]


def test_verbose_counts_the_phases_after_training_in(now, capsys):
    stopwatch = Stopwatch(verbose=True)
    stopwatch.after_training = lambda: 60.0
    quietly(Timed(now), 8, max_iter=3, n_iter_no_change=None, stopwatch=stopwatch, verbose=True)
    lines, _ = printed(capsys)
    assert [line["left"] for line in lines] == ["1 min 04 s", "1 min 02 s", "1 min 00 s"]


def test_verbose_leaves_no_more_time_than_the_limit_does(now, capsys):
    quietly(Timed(now), 8, max_iter=900, n_iter_no_change=None, stopwatch=Stopwatch(30.0, verbose=True), verbose=True)
    lines, last = printed(capsys)
    assert [line["left"] for line in lines[:2]] == ["28 s", "26 s"]
    assert last.startswith("Training ended after 15 epochs: max_time=30.0 was reached")
