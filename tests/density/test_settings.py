import pytest

from skode.density.settings import EPOCHS, MANY, auto_batch_size, auto_kinetic_energy, auto_max_iter, is_many


@pytest.mark.parametrize(("n", "expected"), [(100, 1.0), (6000, 0.1), (10**6, 0.01)])
def test_the_automatic_kinetic_energy_falls_with_the_samples(n, expected):
    assert auto_kinetic_energy(n) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "expected"), [(10, 32), (4000, 100), (10**6, 256)])
def test_the_automatic_batch_is_a_fortieth_of_the_samples_within_bounds(n, expected):
    assert auto_batch_size(n) == expected


@pytest.mark.parametrize(("n", "expected"), [(2, 70), (25_000, 70), (50_000, 35), (90_000, 19), (10**7, 10)])
def test_beyond_many_samples_there_are_fewer_epochs_but_as_many_updates(n, expected):
    assert auto_max_iter(n) == expected
    if EPOCHS > expected > 10:
        assert n * expected == pytest.approx(MANY * EPOCHS, rel=0.03)


def test_settings_change_where_samples_are_many():
    assert not is_many(MANY)
    assert is_many(MANY + 1)
