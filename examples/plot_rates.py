"""The rates of a known equation, fitted to data
=============================================

The solver is a library of its own. Where the equation is known and only its numbers are not, no network is needed:
solve it for all series at once, and follow the gradient. :class:`skode.ODERegressor` does better with less:
:ref:`sphx_glr_gallery_plot_vector_field.py` fits the same equations.
"""

# %%
# Populations of predators and prey, 20 series with noise of 10 %, each observed at 30 times of its own.

import numpy as np
import torch
from matplotlib import pyplot as plt

from skode.datasets import make_lotka_volterra
from skode.solvers import solve_ivp

X, y, truth = make_lotka_volterra(20, 30, random_state=0, return_truth=True)
times = torch.tensor(X["time"].to_numpy().reshape(20, 30))
observed = torch.tensor(np.log(y.to_numpy()).reshape(20, 30, 2))

# %%
# The logarithms of the populations have the equations below. Four rates are shared by all series; where each series
# starts is unknown too, and is taken from its first observation to begin with.

rates = torch.tensor([1.0, 0.03, 1.0, 0.03], dtype=torch.float64).log().requires_grad_()
starts = observed[:, 0].clone().requires_grad_()


def growth(t, z):
    """Rates of change of the logarithms of prey and predators."""
    a, b, c, d = rates.exp()
    prey, predators = z.exp().unbind(-1)
    return torch.stack([a - b * predators, d * prey - c], dim=-1)


# %%
# ``t_eval`` may differ from series to series. The gradient is exact for the computed solution.

optimiser = torch.optim.Adam([rates, starts], lr=0.05)
losses = []
for _ in range(100):
    optimiser.zero_grad()
    solution = solve_ivp(growth, (0.0, 20.0), starts, t_eval=times, rtol=1e-4)
    loss = (solution.y - observed).square().mean()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())

print(f"RMSE of the logarithms: {losses[-1] ** 0.5:.3f}, of which noise: 0.1")
for name, fitted, true in zip("abcd", rates.exp().tolist(), (0.55, 0.028, 0.80, 0.024), strict=True):
    print(f"{name} = {fitted:.4f}, in truth {true}")

# %%
# One series: observations, and the solution with the rates that were found.

grid = torch.linspace(0, 20, 200, dtype=torch.float64)
with torch.no_grad():
    fitted = solve_ivp(growth, (0.0, 20.0), starts[:1], t_eval=grid, rtol=1e-6).y[:, 0].exp()
figure, ax = plt.subplots(layout="constrained")
for column, (name, colour) in enumerate({"prey": "tab:blue", "predators": "tab:orange"}.items()):
    ax.plot(grid, fitted[:, column], color=colour, label=name)
    ax.scatter(times[0], observed[0, :, column].exp(), color=colour, s=12)
ax.set(xlabel="years", ylabel="thousands")
ax.legend()
