"""How deep is a network whose layers an ODE solver chooses?
=========================================================

The hidden layers of an ODE-Net are the solution of an ODE. The solver evaluates the vector field as often as the
tolerance asks for, at some samples more often than at others: that number is the network's depth.
"""

# %%
# Handwritten digits, with scikit-learn's usual calls, and a tolerance that is tight enough to see the depth change.

# sphinx_gallery_thumbnail_number = 2

from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skode import ODENetClassifier
from skode.inspection import TrainingCurveDisplay

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
clf = ODENetClassifier(rtol=1e-4, atol=1e-4, max_iter=25, random_state=0).fit(X_train, y_train)
print(f"Held-out accuracy: {clf.score(X_test, y_test):.3f}")

# %%
# Training counts evaluations: how many a solve took forward, and its gradient backward, on average per epoch.

TrainingCurveDisplay.from_estimator(clf, log=True)

# %%
# Prediction takes each sample's own steps, so that its answer does not depend on the others. With a tight tolerance,
# ``return_nfe=True`` tells samples apart: here how deep the network is for each digit.

clf.set_params(rtol=1e-6, atol=1e-6)  # read at every call, no refit
labels, depth = clf.predict(X_test, return_nfe=True)
figure, ax = plt.subplots(layout="constrained")
ax.boxplot([depth[y_test == digit] for digit in range(10)], tick_labels=range(10))
ax.set(xlabel="digit", ylabel="evaluations of the vector field")
