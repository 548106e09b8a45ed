"""Learning rates and penalties over training."""

import math

import pytest

from skode.training import TrainingSettings
from skode.training.schedule import Schedule


def schedule_of(**settings):
    return Schedule(TrainingSettings(learning_rate=1.0, batch_size=1, max_iter=1, **settings))


def test_a_constant_rate_stays():
    schedule = schedule_of(alpha=0.3)
    for progress in (0.0, 0.5, 1.0):
        assert not schedule.follow(progress)
        assert (schedule.factor, schedule.alpha, schedule.progress) == (1.0, 0.3, progress)


def test_a_cosine_falls_to_zero():
    schedule = schedule_of(schedule="cosine")
    for progress in (0.0, 0.25, 0.5, 1.0):
        schedule.follow(progress)
        assert schedule.factor == pytest.approx(0.5 * (1.0 + math.cos(math.pi * progress)))


def test_it_falls_in_each_stage_anew_and_stages_have_their_penalties():
    schedule = schedule_of(schedule="cosine", stages=((0.5, 1.0), (1.0, 2.0)))
    found = [(schedule.follow(progress), schedule.factor, schedule.alpha) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert [new for new, _, _ in found] == [False, False, True, False, False]
    assert [factor for _, factor, _ in found] == pytest.approx([1.0, 0.5, 1.0, 0.5, 0.0])
    assert [alpha for _, _, alpha in found] == [1.0, 1.0, 2.0, 2.0, 2.0]
