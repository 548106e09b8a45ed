"""A drug in blood and tissue: rates, bands and profiles
=====================================================

The equations of a drug's way through the body are known, its rates are not, and of two compartments only the blood can
be sampled. :class:`skode.ODERegressor` fits rates and their intervals to the samples of all patients at once.
"""

# %%
# Four patients get one dose each. The drug goes from blood to tissue and back, and is eliminated from the blood, at a
# rate that differs from patient to patient. Eight samples of each patient's blood have lognormal errors of 10 %.

# sphinx_gallery_thumbnail_number = 1

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from scipy.integrate import solve_ivp

from skode import ODERegressor
from skode.inspection import ODEFitDisplay, ProfileDisplay

true_elimination = {"ann": 0.15, "bob": 0.25, "eve": 0.3, "joe": 0.5}
true_out, true_back = 0.6, 0.3
rng = np.random.default_rng(0)
parts = []
for name, elimination in true_elimination.items():
    hours = np.array([0.0, 0.25, 0.5, 1, 2, 4, 6, 9, 12])
    rates = np.array([[-elimination - true_out, true_back], [true_out, -true_back]])
    blood = solve_ivp(lambda t, y, A=rates: A @ y, (0, 12), [10.0, 0.0], t_eval=hours, rtol=1e-8).y[0]
    parts.append(pd.DataFrame({"patient": name, "hour": hours, "blood": blood}))
frame = pd.concat(parts, ignore_index=True)
X = frame[["patient", "hour"]]
y = (frame["blood"] * np.exp(0.1 * rng.standard_normal(len(frame)))).where(frame["hour"] > 0)

# %%
# The right-hand side in torch, with states along the last dimension. Samples are of the blood; the tissue is empty at
# first, and what the dose makes of the blood is unknown.


def compartments(t, y, p):
    blood, tissue = y[..., 0], y[..., 1]
    out, back = p["out"] * blood, p["back"] * tissue
    return torch.stack([back - out - p["elimination"] * blood, out - back], dim=-1)


model = ODERegressor(
    compartments,
    {"elimination": (0.5, 0, None), "out": (0.1, 0, None), "back": (0.1, 0, None), "start": (5.0, 0, None)},
    states=["blood", "tissue"],
    observe="blood",
    initial={"blood": "start", "tissue": 0.0},
    series="patient",
    time="hour",
    per_series=["elimination"],
    noise="lognormal",
)
model.fit(X, y)
print(model.summary()[["estimate", "std_error", "low", "high"]].round(3))

# %%
# Solutions with bands that should hold 95 % of samples.

display = ODEFitDisplay.from_estimator(model, X, y, series=list(true_elimination), times=np.linspace(0, 12, 200))
for ax in display.axes_.flat:
    ax.set_yscale("log")

# %%
# The profile of a rate is the largest log-likelihood that is possible at each of its values; the dotted parabola is
# what the standard error makes of it. That is the wider one here, as it is corrected for the seven unknowns that were
# fitted to 32 samples.

display = ProfileDisplay.from_estimator(model)
print(display.intervals_.round(3))

# %%
# States that nobody has seen come with the solution: the drug in the tissue.

grid = pd.DataFrame({"patient": np.repeat(["ann", "joe"], 100), "hour": np.tile(np.linspace(0, 12, 100), 2)})
grid["tissue"] = model.predict_states(grid)["tissue"]
figure, ax = plt.subplots(layout="constrained")
for name, rows in grid.groupby("patient"):
    ax.plot(rows["hour"], rows["tissue"], label=name)
ax.set(xlabel="hour", ylabel="tissue")
ax.legend()
