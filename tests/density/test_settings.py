import pytest

from skode.density.settings import auto_batch_size, auto_kinetic_energy


@pytest.mark.parametrize(("n", "expected"), [(100, 1.0), (6000, 0.1), (10**6, 0.01)])
def test_the_automatic_kinetic_energy_falls_with_the_samples(n, expected):
    assert auto_kinetic_energy(n) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "expected"), [(10, 32), (4000, 100), (10**6, 256)])
def test_the_automatic_batch_is_a_fortieth_of_the_samples_within_bounds(n, expected):
    assert auto_batch_size(n) == expected
