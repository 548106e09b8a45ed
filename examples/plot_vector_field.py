"""The vector field of predators and prey
======================================

Equations whose rates were fitted to data tell more than the solutions that were seen: the field in the whole plane of
both populations, and where it stands still.
"""

# %%
# Six series of populations with noise of 10 %, each from its own start and over two cycles or so.

# sphinx_gallery_thumbnail_number = 1

import numpy as np
import torch

from skode import ODERegressor
from skode.datasets import make_lotka_volterra
from skode.inspection import VectorFieldDisplay

X, y, truth = make_lotka_volterra(6, 30, random_state=0, return_truth=True)


def lotka_volterra(t, y, p):
    prey, predator = y[..., 0], y[..., 1]
    met = prey * predator
    return torch.stack([p["a"] * prey - p["b"] * met, p["d"] * met - p["c"] * predator], dim=-1)


starts = {"a": (1.0, 0, None), "b": (0.05, 0, None), "c": (1.0, 0, None), "d": (0.05, 0, None)}
model = ODERegressor(lotka_volterra, starts, series="series", time="time", noise="lognormal").fit(X, y)
p = model.params_
print({name: round(value, 4) for name, value in p.items()})

# %%
# The field of the fitted equations beside the true one, with the solutions of all series. It vanishes where the
# populations balance, at ``(c / d, a / b)``, and cycles go around that point.


def true_field(states):
    prey, predator = states.T
    return np.stack([0.55 * prey - 0.028 * prey * predator, 0.024 * prey * predator - 0.8 * predator], axis=1)


balance = [[p["c"] / p["d"], p["a"] / p["b"]]]
display = VectorFieldDisplay.from_estimator(model, X, y, true_field=true_field, fixed_points=balance)

# %%
# What would change if predators starved twice as fast? There would be twice as many prey where both balance, and as
# many predators as before.

display = VectorFieldDisplay.from_estimator(
    model,
    limits=[(0, 160), (0, 80)],
    field_kw={"params": {"c": 2 * p["c"]}},
    fixed_points=[[2 * p["c"] / p["d"], p["a"] / p["b"]]],
)
