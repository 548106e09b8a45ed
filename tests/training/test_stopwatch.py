import math

import numpy as np
import pytest

from skode.training.stopwatch import Pace, Stopwatch, in_words, seconds_of_epochs


def test_it_runs_from_when_it_is_made(now):
    now.seconds = 100.0
    stopwatch = Stopwatch(5.0)
    now.seconds = 103.0
    assert (stopwatch.elapsed, stopwatch.left) == (3.0, 2.0)
    now.seconds = 106.0
    assert stopwatch.left == -1.0
    assert Stopwatch().left == math.inf


def test_a_phase_is_printed_when_it_begins_and_with_its_time_when_it_ends(now, capsys):
    stopwatch = Stopwatch(verbose=True)
    now.seconds = 4.0
    with stopwatch.phase("Posteriors of 3 series"):
        assert capsys.readouterr().out == "Posteriors of 3 series ... "
        now.seconds = 94.0
    assert capsys.readouterr().out == "1 min 30 s, 1 min 34 s in all\n"


def test_a_phase_that_fails_ends_its_line(now, capsys):
    with pytest.raises(KeyError), Stopwatch(verbose=True).phase("Noise"):
        raise KeyError
    assert capsys.readouterr().out == "Noise ... 0.0 s, 0.0 s in all\n"


def test_a_phase_is_silent_otherwise(now, capsys):
    with Stopwatch().phase("Posteriors"):
        pass
    assert capsys.readouterr().out == ""


def test_a_share_of_the_time_that_is_left(now):
    stopwatch = Stopwatch(12.0)
    now.seconds = 2.0
    pace = Pace(stopwatch, 100, share=0.5)
    now.seconds = 6.9
    assert not pace.is_over
    now.seconds = 7.0
    assert pace.is_over


def test_progress_is_that_of_the_epochs_or_of_the_time(now):
    pace = Pace(Stopwatch(10.0), 100)
    now.seconds = 4.0
    assert pace.progress(0.1) == 0.4
    assert pace.progress(0.6) == 0.6
    now.seconds = 11.0
    assert pace.progress(0.6) == 1.0
    assert Pace(Stopwatch(), 100).progress(0.6) == 0.6


def test_what_comes_after_training_is_estimated_anew_after_the_first_second_fourth_epoch(now):
    stopwatch, estimates = Stopwatch(verbose=True), iter([7.0, 5.0, 3.0])
    stopwatch.after_training = lambda: next(estimates)
    pace, left = Pace(stopwatch, 5), []
    for _ in range(5):
        now.seconds += 1.0
        pace.end_epoch()
        left.append(pace.left)
    assert left == [4 + 7, 3 + 5, 2 + 5, 1 + 3, 3]


def test_nothing_is_estimated_where_nobody_would_know(now):
    stopwatch = Stopwatch()
    stopwatch.after_training = lambda: pytest.fail("estimated")
    Pace(stopwatch, 5).end_epoch()


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_the_time_of_epochs_on_a_line_is_their_sum_whatever_a_few_take(slope):
    line = 2.0 + slope * np.arange(40)
    seen = line[:20].copy()
    seen[[0, 12, 17]] += 100.0
    assert seconds_of_epochs(seen, 10) == pytest.approx(line[20:30].sum())


def test_epochs_that_get_quicker_count_as_their_median():
    assert seconds_of_epochs([5.0, 4.0, 3.0], 4) == pytest.approx(16.0)


def test_epochs_get_slower_for_as_long_as_they_have_been_seen_to():
    assert seconds_of_epochs([1.0, 2.0, 3.0], 6) == pytest.approx(4 + 5 + 6 + 6 + 6 + 6)


def test_without_epochs_nothing_is_known():
    assert seconds_of_epochs([], 10) == seconds_of_epochs([3.0], 0) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1.0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.6, "1 h 00 min")],
)
def test_times_are_rounded_to_what_matters(seconds, text):
    assert in_words(seconds) == text
