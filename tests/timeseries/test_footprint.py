"""Blocks of series hold each once, and what is held for one at a time stays within the bound that is counted."""

import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skode import LatentODERegressor
from skode.solvers import METHODS, free_idle_memory
from skode.solvers.buffer_pool import BufferPool
from skode.timeseries import footprint
from skode.timeseries.encoders import GRUEncoder
from skode.timeseries.footprint import Footprint
from skode.timeseries.latent_ode import LatentODE
from skode.timeseries.likelihoods import Gaussian

BOUND = 2**20


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors made within it that are alive at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor) and (storage := x.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.let_go, storage.nbytes())
        return made

    def let_go(self, nbytes):
        self.now -= nbytes


def long_frame(n_series, n_rows, first=0, n_covariates=0):
    rng = np.random.default_rng(0)
    time = np.sort(rng.uniform(1, 5, (n_series, n_rows)), axis=1)
    if n_rows > 1:
        time[:, 0], time[:, -1] = 1.0, 5.0
    time = time.ravel()
    X = pd.DataFrame({"series": np.repeat(np.arange(n_series) + first, n_rows), "time": time})
    for k in range(n_covariates):
        X[f"u{k}"] = rng.standard_normal(len(X))
    return X, np.sin(time)


def fitted(n_covariates=0, **parameters):
    X, y = long_frame(8, 4, n_covariates=n_covariates)
    settings = {"max_iter": 2, "random_state": 0, "encoder_size": 8, "early_stopping": False, **parameters}
    return LatentODERegressor("series", "time", **settings).fit(X, y)


def model(n_covariates=0, latent_size=3, hidden=(16, 16), encoder_size=8, process=False):
    generator = torch.Generator().manual_seed(0)
    return LatentODE(
        n_covariates,
        latent_size=latent_size,
        hidden_layer_sizes=hidden,
        activation="silu",
        encoder=GRUEncoder(1, n_covariates, encoder_size, latent_size, generator),
        likelihood=Gaussian(1),
        process=process,
        generator=generator,
    )


def held_by(function):
    free_idle_memory()
    with Held() as held:
        function()
    return held.most


CALLS = {
    "predict": lambda model, X, y: model.predict(X, return_std=True),
    "score_samples": lambda model, X, y: model.score_samples(X, y),
    "sample_y": lambda model, X, y: model.sample_y(X, n_samples=16),
    "latent_trajectory": lambda model, X, y: model.latent_trajectory(X),
    "condition": lambda model, X, y: model.condition(X, y),
}
SHAPES = {"one row": (40, 1), "three rows": (30, 3), "many rows": (8, 100)}
SETTINGS = {
    "default": {},
    "wide": {"hidden_layer_sizes": (64, 64)},
    "fixed steps": {"method": "rk4"},
    "covariates": {"n_covariates": 1},
    "coloured": {"coloured": True},
}


@pytest.fixture
def nothing_idle(monkeypatch):
    """No memory of finished solves is kept beside the block in hand, and that holds little."""
    monkeypatch.setattr(BufferPool, "most", 0)
    monkeypatch.setattr(footprint, "MOST_NUMBERS", BOUND)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("call", "shape", "settings"),
    [(call, "three rows", "default") for call in CALLS]
    + [("predict", "one row", settings) for settings in SETTINGS]
    + [("condition", "many rows", "default"), ("predict", "many rows", "covariates")]
    + [(call, shape, "coloured") for call in ("condition", "predict", "sample_y") for shape in ("many rows",)],
)
def test_what_is_held_is_what_is_counted(call, shape, settings, nothing_idle):
    settings = dict(SETTINGS[settings])
    n_covariates = settings.pop("n_covariates", 0)
    coloured = settings.pop("coloured", False)
    trained = fitted(n_covariates, **settings)
    if coloured:
        trained.module_.likelihood.colour(0, 0.8, 1.0)
    X, y = long_frame(*SHAPES[shape], first=100, n_covariates=n_covariates)
    held = held_by(lambda: CALLS[call](trained, X, y))
    # Covariates are read in NumPy, whose memory is counted in the footprint but not here.
    least = 0.2 if n_covariates else 0.25
    assert least * BOUND <= held / 8 <= 1.1 * BOUND


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_draws_of_a_long_series_are_made_some_at_a_time(nothing_idle, monkeypatch):
    trained = fitted(noise="white")
    X, _ = long_frame(1, 400, first=100)
    apart = trained.sample_y(X, n_samples=256)
    held = held_by(lambda: trained.sample_y(X, n_samples=256))
    monkeypatch.setattr(footprint, "MOST_NUMBERS", 100 * BOUND)
    together = trained.sample_y(X, n_samples=256)
    assert held / 8 <= 1.1 * BOUND
    assert held_by(lambda: trained.sample_y(X, n_samples=256)) > 1.5 * held
    # The same latent paths; only the noise is drawn in another order.
    assert apart.shape == together.shape
    assert np.std(apart - together) <= 1.1 * np.sqrt(2.0) * trained.noise_std_[0]


@pytest.mark.parametrize("n_copies", [1, 7])
def test_blocks_hold_each_series_once_and_stay_within_the_bound(n_copies, monkeypatch):
    monkeypatch.setattr(footprint, "MOST_NUMBERS", 2**17)
    rng = np.random.RandomState(0)
    n_rows, n_knots = rng.geometric(0.05, 60), rng.geometric(0.05, 60)
    n_rows[3], n_knots[5] = 2000, 20_000
    counted = Footprint.of(model(n_covariates=1), "dopri5")
    found = list(counted.blocks(n_copies, n_rows, n_knots))
    assert sorted(np.concatenate(found).tolist()) == list(range(60))
    for block in found:
        assert (np.diff(block) > 0).all()
        held = len(block) * counted.numbers(n_copies, n_rows[block].max(), n_knots[block].max())
        assert len(block) == 1 or held <= 2**17
    assert max(len(block) for block in found) > 1
    assert not list(counted.blocks(n_copies, n_rows[:0]))


def numbers(method="dopri5", n_copies=10, n_rows=5, **settings):
    return Footprint.of(model(**settings), method).numbers(n_copies, n_rows)


def test_draws_rows_stages_widths_and_latent_dimensions_count():
    assert numbers(n_copies=1000) == pytest.approx(100 * numbers(n_copies=10), rel=0.05)
    assert numbers(n_rows=10_000) == pytest.approx(10 * numbers(n_rows=1000), rel=0.05)
    assert numbers("dopri8", n_copies=1000) == pytest.approx(2 * numbers("dopri5", n_copies=1000), rel=0.2)
    assert numbers(hidden=(1600, 1600)) == pytest.approx(10 * numbers(hidden=(160, 160)), rel=0.1)
    assert numbers(encoder_size=400, n_rows=1000) > 2 * numbers(n_rows=1000)
    assert numbers("kvaerno5", latent_size=16) > numbers("dopri5", latent_size=16)
    assert numbers(process=True) > numbers()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_counted(method):
    assert numbers(method) > 0
