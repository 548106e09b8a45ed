"""The whole distribution of a target
====================================

A regression predicts a mean. Where targets have two modes, or a spread that changes, the mean is far from any of them.
A conditional flow learns the density of the target at each value of the features.
"""

# %%
# Two branches with a spread that grows; for large x the mean lies between them, where there are no data.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from skode import CNFRegressor

rng = np.random.default_rng(0)
X = rng.uniform(0, 3, (600, 1))
branch = rng.choice([-1, 1], 600)
y = branch * np.maximum(X[:, 0] - 1, 0) + (0.1 + 0.1 * X[:, 0]) * rng.normal(size=600)

reg = CNFRegressor(max_iter=40, random_state=0).fit(X, y)

# %%
# The conditional density on a grid, with the quantiles that hold 90 % and the mean.

x, targets = np.linspace(0, 3, 91), np.linspace(-3.5, 3.5, 101)
grid = np.stack(np.meshgrid(x, targets, indexing="ij"), axis=-1).reshape(-1, 2)
density = np.exp(reg.log_density(grid[:, :1], grid[:, 1])).reshape(91, 101)

low, high = reg.predict_interval(x[:, None], 0.9).T
fig, ax = plt.subplots(layout="constrained")
surface = ax.pcolormesh(x, targets, density.T, cmap="Blues", vmax=1.5, shading="gouraud")
ax.scatter(X[:, 0], y, s=2, color="0.3", alpha=0.5)
ax.plot(x, low, "C1", x, high, "C1", x, reg.predict(x[:, None]), "C3--")
ax.set(xlabel="x", ylabel="y", title="Density of y given x, its 90 % interval and mean")
fig.colorbar(surface, label="density")

# %%
# Its log-densities are scores of the whole distribution: on new data, beside those of a normal distribution with the
# true mean and spread, and of the density that the data were drawn from.

X_new = rng.uniform(0, 3, (2000, 1))
far, spread = np.maximum(X_new[:, 0] - 1, 0), 0.1 + 0.1 * X_new[:, 0]
y_new = rng.choice([-1, 1], 2000) * far + spread * rng.normal(size=2000)
truth = np.log(0.5 * norm.pdf(y_new, far, spread) + 0.5 * norm.pdf(y_new, -far, spread))
print(f"flow   {reg.log_density(X_new, y_new).mean():.3f}")
print(f"normal {norm.logpdf(y_new, 0, np.hypot(far, spread)).mean():.3f}")
print(f"truth  {truth.mean():.3f}")
