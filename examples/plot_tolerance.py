"""A tolerance that is chosen after fitting
========================================

``rtol`` and ``atol`` are read at every call. A network that was fitted once can answer fast and roughly, or slowly and
exactly, and how much either costs can be measured.
"""

# %%
# Fit as usual.

# sphinx_gallery_thumbnail_path = "images/thumb_plot_tolerance.png"

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skode import ODENetClassifier
from skode.inspection import ToleranceDisplay

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
clf = ODENetClassifier(max_iter=25, random_state=0).fit(X_train, y_train)

# %%
# Then predict at one tolerance after the other: the score, the evaluations that a sample takes, and the time. Where the
# score no longer changes, a tighter tolerance buys nothing.

display = ToleranceDisplay.from_estimator(clf, X_test, y_test, tolerances=[1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
