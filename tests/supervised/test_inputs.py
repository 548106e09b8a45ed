"""Tables and images as inputs."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.datasets import load_digits

from skode import ODENetClassifier, ODENetRegressor
from skode.supervised.architecture import Architecture
from skode.supervised.inputs import CLIP, ImageInputs, TabularInputs, inputs_of

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


def inputs(image_shape=None, image_shift=0.0, **changed):
    parameters = {
        "state_size": 4,
        "augment_dim": 0,
        "n_blocks": 1,
        "field": None,
        "hidden_layer_sizes": (8,),
        "activation": "tanh",
        "time_dependent": True,
        "evolving_weights": False,
    }
    return inputs_of(Architecture(image_shape=image_shape, **{**parameters, **changed}), image_shift)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal([0.0, 10.0, -3.0, 1.0], [1.0, 5.0, 0.1, 100.0], size=(50, 4))


WEIGHTS = np.arange(1.0, 51.0)


def test_a_shape_makes_images():
    assert isinstance(inputs(), TabularInputs)
    assert isinstance(inputs((1, 2, 2)), ImageInputs)


def test_columns_are_standardised_each_and_squashed(X):
    tables = inputs()
    scaler = tables.fitted_scaler([(X, WEIGHTS)])
    mean = np.average(X, axis=0, weights=WEIGHTS)
    z = (X - mean) / np.sqrt(np.average((X - mean) ** 2, axis=0, weights=WEIGHTS))
    np.testing.assert_allclose(tables.scaled(scaler, X), z / np.sqrt(1 + (z / CLIP) ** 2), rtol=1e-12, atol=1e-14)
    assert np.abs(tables.scaled(scaler, 1e6 * X)).max() <= CLIP


def test_pixels_are_standardised_together_and_not_squashed(X):
    images = inputs((1, 2, 2))
    scaler = images.fitted_scaler([(X, WEIGHTS)])
    mean = np.average(X, weights=np.repeat(WEIGHTS[:, None], 4, axis=1))
    spread = np.sqrt(np.average((X - mean) ** 2, weights=np.repeat(WEIGHTS[:, None], 4, axis=1)))
    np.testing.assert_allclose(images.scaled(scaler, X), (X - mean) / spread, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("image_shape", [None, (1, 2, 2)], ids=["tables", "images"])
@pytest.mark.parametrize("container", [np.asarray, csr_matrix], ids=["dense", "sparse"])
def test_a_scaler_learns_from_parts_as_from_the_whole(X, image_shape, container):
    made = inputs(image_shape)
    whole = made.fitted_scaler([(container(X), WEIGHTS)])
    parts = made.fitted_scaler([(container(X[:20]), WEIGHTS[:20])])
    made.update_scaler(parts, container(X[20:]), WEIGHTS[20:])
    np.testing.assert_allclose(parts.mean_, whole.mean_, rtol=1e-10)
    np.testing.assert_allclose(parts.scale_, whole.scale_, rtol=1e-10)
    np.testing.assert_allclose(whole.mean_, made.fitted_scaler([(X, WEIGHTS)]).mean_, rtol=1e-10)


@pytest.mark.parametrize("image_shape", [None, (1, 2, 2)], ids=["tables", "images"])
def test_sparse_features_are_those_of_dense_ones(X, image_shape):
    made = inputs(image_shape)
    scaler = made.fitted_scaler([(X, WEIGHTS)])
    dense = made.features(scaler, X, torch.float32, torch.device("cpu"))
    sparse = made.features(scaler, csr_matrix(X), torch.float32, torch.device("cpu"))
    assert dense.dtype == torch.float32
    assert torch.equal(sparse[torch.arange(50)], dense)


def test_only_shifted_images_are_augmented():
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    for unchanged in (inputs(), inputs((1, 4, 4))):
        assert unchanged.augmented(x, torch.Generator().manual_seed(1)) is x
    moved = inputs((1, 4, 4), image_shift=1.0).augmented(x, torch.Generator().manual_seed(1))
    assert moved.shape == x.shape
    assert not torch.equal(moved, x)


# Images in estimators


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
    reg = ODENetRegressor(**{**IMAGES, "max_iter": 15}, learning_rate_init=1e-2, batch_size=30).fit(X, y)
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


def test_blocks_that_end_in_one_pixel_learn(digits):
    X, y = digits
    settings = {**IMAGES, "state_size": 16, "n_blocks": 3, "learning_rate_init": 1e-2, "batch_size": 30}
    clf = ODENetClassifier(**settings).fit(X, y)
    assert clf.n_features_in_ == 64
    assert clf.transform(X).shape == (150, 16)
    assert clf.score(X, y) > 0.95


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
