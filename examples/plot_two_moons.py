"""From a normal density to two moons
===================================

A continuous normalizing flow carries a standard normal density along an ODE until it is the density of the data. All
densities on the way are known exactly, and can be drawn.
"""

# %%
# The density, beside what is known of these moons: the mean of their exact log-density is the best score there is.

from skode import CNFDensityEstimator
from skode.datasets import make_toy_density, toy_log_density
from skode.inspection import DensityDisplay, DensityEvolutionDisplay

X = make_toy_density("two_moons", 1000, random_state=0)
X_test = make_toy_density("two_moons", 1000, random_state=1)
cnf = CNFDensityEstimator(max_iter=20, random_state=0).fit(X)
print(f"Held-out log-likelihood: {cnf.score(X_test):.3f}; of the density itself: ", end="")
print(f"{toy_log_density('two_moons', X_test).mean():.3f}")

display = DensityDisplay.from_estimator(cnf, X_test, scatter=True, scatter_kw={"s": 1})
display.figure_.colorbar(display.surface_, label="density")

# %%
# From the base at 0 to the data at 1, with samples that are carried along.

evolution = DensityEvolutionDisplay.from_estimator(
    cnf, X_test, times=13, n_samples=200, grid_resolution=40, random_state=0, panels=4
)

# %%
# The same as an animation; ``animation.save("moons.gif", writer="pillow")`` writes it to a file.

animation = evolution.animate()
