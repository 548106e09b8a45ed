"""Vector fields of images."""

import pytest
import torch

from skode.dynamics.convolutional import ConvField, normalisation
from skode.solvers.device.fingerprint import fingerprint
from tests.dtypes import dtypes_of_values


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("time_dependent", [False, True])
def test_a_field_keeps_the_states_shape_and_starts_from_zero(time_dependent):
    field = ConvField(4, (6, 8), time_dependent, generator=generator())
    z = torch.randn(5, 4, 7, 3)
    assert not field(torch.tensor(0.5), z).any()
    with torch.no_grad():
        field.norms[-1].weight.fill_(1.0)
    assert field(torch.tensor(0.5), z).shape == z.shape
    depends = not torch.equal(field(torch.tensor(0.1), z), field(torch.tensor(0.9), z))
    assert depends == time_dependent


def field_away_from_zero(autocast, **changed):
    field = ConvField(4, (6, 8), autocast=autocast, generator=generator(), **changed)
    with torch.no_grad():
        field.norms[-1].weight.fill_(1.0)
    return field


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("evolving_weights", [False, True])
def test_a_field_under_autocast_has_values_of_the_states_dtype(dtype, evolving_weights):
    plain, cast = (field_away_from_zero(autocast, evolving_weights=evolving_weights) for autocast in (False, True))
    z, t = torch.randn(5, 4, 7, 3, generator=generator()).to(dtype), torch.tensor(0.3, dtype=dtype)
    expected, found = plain.to(dtype)(t, z), cast.to(dtype)(t, z)
    assert found.dtype == dtype
    off = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
    assert off < 0.02
    if dtype == torch.float32:  # torch leaves float64 as it is
        assert off > 1e-4


def test_a_field_under_autocast_convolves_in_bfloat16_and_normalises_in_float32():
    field = field_away_from_zero(True)
    convolved, normalised = dtypes_of_values(field, torch.nn.Conv2d), dtypes_of_values(field, torch.nn.GroupNorm)
    field(torch.tensor(0.5), torch.randn(5, 4, 7, 3))
    assert convolved == [torch.bfloat16] * 3
    assert normalised == [torch.float32] * 4
    assert {p.dtype for p in field.parameters()} == {torch.float32}


def test_autocast_is_over_after_an_evaluation_and_begun_by_others_goes_on():
    z = torch.randn(5, 4, 7, 3)
    field_away_from_zero(True)(torch.tensor(0.5), z)
    assert not torch.is_autocast_enabled("cpu")
    plain = field_away_from_zero(False)
    convolved = dtypes_of_values(plain, torch.nn.Conv2d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert plain(torch.tensor(0.5), z).dtype == torch.float32
    assert convolved == [torch.bfloat16] * 3


def test_weights_that_change_in_place_are_cast_anew():
    field, z, t = field_away_from_zero(True), torch.randn(5, 4, 7, 3), torch.tensor(0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # inside which torch would remember casts
        before = field(t, z)
        with torch.no_grad():
            for layer in field.layers:
                layer.weight.mul_(-1.0)
        after = field(t, z)
    assert not torch.allclose(before, after, atol=0.1)
    torch.testing.assert_close(after, field(t, z))


def test_recordings_of_fields_with_and_without_autocast_differ():
    field = field_away_from_zero(False)
    before = fingerprint(field)
    field.autocast = True
    assert fingerprint(field) != before
    field.autocast = False
    assert fingerprint(field) == before


def test_samples_do_not_see_each_other():
    field = ConvField(4, (6,), generator=generator())
    with torch.no_grad():
        field.norms[-1].weight.fill_(1.0)
    z = torch.randn(5, 4, 4, 4)
    torch.testing.assert_close(field(torch.tensor(0.5), z)[:2], field(torch.tensor(0.5), z[:2]))


def test_groups_are_pairs_of_channels_or_as_many_as_leave_something():
    assert normalisation(64, 49).num_groups == 32
    assert normalisation(16, 1).num_groups == 1
    assert normalisation(48, 4).num_groups == 12
    assert normalisation(7, 49).num_groups == 1
