"""The convolutional ODE-Net."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from skode import ODENetClassifier, ODENetRegressor
from skode.dynamics.convolutional import ConvField, normalisation
from skode.solvers import solve_ivp
from skode.solvers.device.fingerprint import fingerprint
from skode.supervised.conv_odenet import ConvODENet

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


def generator():
    return torch.Generator().manual_seed(0)


def net(image_shape=(1, 8, 8), **changed):
    settings = {"n_channels": 4, "augment_dim": 0, "n_blocks": 1, "hidden_layer_sizes": (6,), "time_dependent": True}
    return ConvODENet(image_shape, 3, **{**settings, **changed}, generator=generator())


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


def dtypes_of_values(module, kind):
    """A list that the dtypes of all values of the modules of a kind inside one will be added to."""
    found = []
    for inside in module.modules():
        if isinstance(inside, kind):
            inside.register_forward_hook(lambda _module, _arguments, value: found.append(value.dtype))
    return found


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


def away_from_zero(made):
    with torch.no_grad():
        for field in made.fields:
            field.norms[-1].weight.fill_(0.1)
    return made


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_gradients_under_autocast_are_those_of_float32_but_for_rounding(adjoint):
    # Many samples: rounding moves the kinks of ReLU past single ones, which changes the gradients of these by much.
    x = torch.randn(200, 196, generator=generator())

    def gradient(autocast):
        made = away_from_zero(net((1, 14, 14), n_channels=14, n_blocks=2, augment_dim=2, hidden_layer_sizes=(14,)))
        made.set_autocast(autocast)

        def solve(*arguments, **settings):
            return solve_ivp(*arguments, **settings, rtol=1e-2, atol=1e-2, adjoint=adjoint)

        states = made.solutions(x, solve)[-1].y[-1]
        made.head(made.features(states)).square().mean().backward()
        assert {p.grad.dtype for p in made.parameters()} == {torch.float32}
        return torch.cat([p.grad.flatten() for p in made.parameters()])

    plain, cast = gradient(False), gradient(True)
    off = torch.linalg.vector_norm(cast - plain) / torch.linalg.vector_norm(plain)
    assert 1e-4 < off < 0.06


def test_a_network_under_autocast_convolves_in_bfloat16_and_solves_and_answers_in_float32():
    made = away_from_zero(net((1, 28, 28), n_blocks=2))
    made.set_autocast(True)
    convolved = dtypes_of_values(made, torch.nn.Conv2d)
    states = []

    def solve(field, t_span, y0, **settings):
        states.append(y0.dtype)
        return solve_ivp(field, t_span, y0, rtol=1e-2, atol=1e-2, **settings)

    solutions = made.solutions(torch.randn(2, 784), solve)
    assert set(convolved) == {torch.bfloat16}
    assert len(convolved) > 2 + 1 + 2  # the embedding's, that between the ODEs, and the fields'
    outputs = made.head(made.features(solutions[-1].y[-1]))
    assert {*states, *(solution.y.dtype for solution in solutions), outputs.dtype} == {torch.float32}
    made.set_autocast(False)
    convolved.clear()
    made.solutions(torch.randn(2, 784), solve)
    assert set(convolved) == {torch.float32}


def test_samples_do_not_see_each_other():
    field = ConvField(4, (6,), generator=generator())
    with torch.no_grad():
        field.norms[-1].weight.fill_(1.0)
    z = torch.randn(5, 4, 4, 4)
    torch.testing.assert_close(field(torch.tensor(0.5), z)[:2], field(torch.tensor(0.5), z[:2]))


@pytest.mark.parametrize(
    ("image_shape", "side"), [((1, 28, 28), (7, 7)), ((3, 32, 32), (4, 4)), ((1, 8, 8), (4, 4)), ((2, 7, 5), (7, 5))]
)
def test_images_are_made_smaller_before_the_first_ode(image_shape, side):
    x = torch.randn(2, int(np.prod(image_shape)))
    solutions = net(image_shape).solutions(x, solve_ivp)
    assert solutions[-1].y.shape == (1, 2, 4, *side)


def test_blocks_halve_the_image_and_zeros_are_appended():
    made = net((1, 14, 14), n_blocks=3, augment_dim=2)
    solutions = made.solutions(torch.randn(2, 196), solve_ivp)
    assert [solution.y.shape[2:] for solution in solutions] == [(6, 7, 7), (6, 4, 4), (6, 2, 2)]
    assert made.head(made.features(solutions[-1].y[-1])).shape == (2, 3)


def test_the_papers_network_has_the_papers_size():
    made = ConvODENet(
        (1, 28, 28), 10, n_channels=64, augment_dim=0, n_blocks=1, hidden_layer_sizes=(64,), time_dependent=True,
        generator=generator(),
    )  # fmt: skip
    assert 0.11e6 < sum(p.numel() for p in made.parameters()) <= 0.22e6


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(n_class=3, return_X_y=True)
    return X[:150], y[:150]


IMAGES = {"image_shape": (1, 8, 8), "state_size": 8, "hidden_layer_sizes": (8,), "max_iter": 12, "random_state": 0}


def test_a_classifier_of_images_learns(digits):
    X, y = digits
    clf = ODENetClassifier(**IMAGES, learning_rate_init=1e-2, batch_size=30).fit(X, y)
    assert clf.score(X, y) > 0.95
    assert clf.transform(X).shape == (150, 128)
    assert clf.trajectory(X[:4], [0.0, 1.0]).shape == (4, 2, 8, 4, 4)
    assert clf.get_feature_names_out().shape == (128,)
    np.testing.assert_allclose(clf.predict_proba(X[:5]), clf.predict_proba(X)[:5], rtol=1e-9)


def test_all_pixels_have_one_scale(digits):
    X, y = digits
    clf = ODENetClassifier(**{**IMAGES, "max_iter": 1}).fit(X, y)
    assert clf.scaler_.mean_.tolist() == pytest.approx([X.mean()])


def test_a_regressor_of_images_learns(digits):
    X, _ = digits
    y = X.reshape(-1, 8, 8)[:, :, :4].mean((1, 2))
    reg = ODENetRegressor(**{**IMAGES, "max_iter": 30}, learning_rate_init=1e-2, batch_size=30).fit(X, y)
    assert reg.score(X, y) > 0.7


def test_depth_is_summed_over_blocks(digits):
    X, y = digits
    one, two = (ODENetClassifier(**{**IMAGES, "max_iter": 1}, n_blocks=n).fit(X, y) for n in (1, 2))
    assert two.predict(X, return_nfe=True)[1].min() > one.predict(X, return_nfe=True)[1].min()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_shape": (1, 8, 9)}, "product of 64"),
        ({"image_shape": (8, 8)}, "must be .channels, height, width."),
        ({"image_shape": (1, 8.0, 8)}, "must be .channels, height, width."),
        ({"state_size": None}, "needs a state_size"),
        ({"image_shape": None, "n_blocks": 2}, "n_blocks=2 is for images"),
    ],
)
def test_what_does_not_fit_is_refused(digits, changed, message):
    with pytest.raises(ValueError, match=message):
        ODENetClassifier(**{**IMAGES, **changed}).fit(*digits)


def test_groups_are_pairs_of_channels_or_as_many_as_leave_something():
    assert normalisation(64, 49).num_groups == 32
    assert normalisation(16, 1).num_groups == 1
    assert normalisation(48, 4).num_groups == 12
    assert normalisation(7, 49).num_groups == 1


def test_blocks_that_end_in_one_pixel_learn(digits):
    X, y = digits
    settings = {**IMAGES, "state_size": 16, "n_blocks": 3, "learning_rate_init": 1e-2, "batch_size": 30}
    clf = ODENetClassifier(**settings).fit(X, y)
    assert clf.n_features_in_ == 64
    assert clf.transform(X).shape == (150, 16)
    assert clf.score(X, y) > 0.95


def test_states_too_small_to_be_normalised_are_refused():
    X = np.eye(8)
    with pytest.raises(ValueError, match=r"leave a last state of 1 x 1 x 1 numbers; fewer than 16"):
        ODENetClassifier(image_shape=(8, 1, 1), state_size=1).fit(X, np.arange(8) % 2)


def test_a_field_of_ones_own_is_copied_for_every_block(digits):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(8, 8, 1)

        def forward(self, t, z):
            return torch.tanh(self.layer(z))

    X, y = digits
    own = Own()
    clf = ODENetClassifier(**{**IMAGES, "max_iter": 2}, n_blocks=2, field=own).fit(X, y)
    first, second = clf.module_.fields
    assert isinstance(first, Own)
    assert len({id(field) for field in (own, first, second)}) == 3
    assert not torch.equal(first.layer.weight, second.layer.weight)


def test_shifts_and_the_schedule_reach_training(digits):
    X, y = digits
    settings = {**IMAGES, "max_iter": 3, "batch_size": 150, "learning_rate": "constant"}

    def losses(**changed):
        return ODENetClassifier(**{**settings, **changed}).fit(X, y).loss_curve_

    plain = losses()
    assert losses(image_shift=1.0)[0] != plain[0]
    with_schedule = losses(learning_rate="cosine")
    assert with_schedule[0] == plain[0]  # one batch: the loss before the first update
    assert with_schedule[2] != plain[2]
