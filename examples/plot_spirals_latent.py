"""What the latent states of series hold
=====================================

A latent ODE describes each series by one state at the start, from which everything follows. Half of these spirals turn
clockwise and half do not. No one tells the model, but their latent states do.
"""

# %%
# Spirals, seen with noise at 30 irregular times each.

from matplotlib import pyplot as plt
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from skode import LatentODERegressor
from skode.datasets import make_spirals
from skode.inspection import TrajectoryDisplay

X, y, truth = make_spirals(80, 30, random_state=0, return_truth=True)
model = LatentODERegressor(series="series", time="time", max_iter=40, random_state=0).fit(X, y)

figure, ax = plt.subplots(layout="constrained")
for series in range(6):
    ax.plot(*y[X["series"] == series].to_numpy().T, ".-", linewidth=0.5, label=truth.direction[series])
ax.set(xlabel="x", ylabel="y", aspect="equal", title="six of the series")
ax.legend()

# %%
# ``latent_states`` gives a row per series, for clustering or classification: a linear classifier tells the two kinds
# apart.

states = model.latent_states().loc[truth.direction.index].to_numpy()
accuracy = cross_val_score(LogisticRegression(max_iter=1000), states, truth.direction, cv=5).mean()
print(f"Accuracy of the direction, told from the latent state: {accuracy:.2f}")

# %%
# Two principal components of the states at the start, and the paths from there.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
points = PCA(2).fit_transform(states)
for direction in truth.direction.unique():
    left.scatter(*points[truth.direction == direction].T, s=12, label=direction)
left.set(xlabel="first component", ylabel="second component", title="latent states at the start")
left.legend()

shown = X["series"] < 30
directions = X.loc[shown, "series"].map(truth.direction)
TrajectoryDisplay.from_estimator(model, X[shown], c=directions, components="pca", ax=right, alpha=0.5)
right.set_title("latent paths")
