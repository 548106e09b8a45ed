"""The tolerance of a density, chosen by cross-validation
======================================================

A loose tolerance makes training faster, and its log-density less exact. Like any hyperparameter, ``rtol`` can be
searched for: the score is the held-out log-likelihood.
"""

# %%
# Measurements of breast tumours (Wisconsin), some with heavy tails. Where scores do not differ, the loosest tolerance
# will do.

# sphinx_gallery_thumbnail_path = "images/thumb_plot_density_search.png"

import pandas as pd
from matplotlib import pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, KFold

from skode import CNFDensityEstimator
from skode.inspection import DensityDisplay

columns = ["mean radius", "mean texture", "mean concavity"]
X = load_breast_cancer(as_frame=True).data[columns]
cnf = CNFDensityEstimator((32,), max_iter=10, random_state=0)
folds = KFold(3, shuffle=True, random_state=0)
search = GridSearchCV(cnf, {"rtol": [1e-1, 1e-2, 1e-3]}, cv=folds).fit(X)
table = pd.DataFrame(search.cv_results_)[["param_rtol", "mean_test_score", "std_test_score", "mean_fit_time"]]
print(table.to_string(index=False, float_format="{:.4g}".format))

# %%
# A score that is computed loosely is off by what the tolerance allows. Compute it again, tightly, without a refit.

best = search.best_estimator_
print(f"as fitted: {best.score(X):.4f}, ", end="")
print(f"tightly: {best.set_params(rtol=1e-6, atol=1e-6).score(X):.4f}")

# %%
# The density that was found, over two columns: a slice, with the third held at its median or far out in its tail.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
for ax, quantile in zip(axes, (0.5, 0.9), strict=True):
    concavity = X["mean concavity"].quantile(quantile)
    DensityDisplay.from_estimator(best, X, columns=columns[:2], fixed={"mean concavity": concavity}, ax=ax)
    ax.set_title(f"mean concavity = {concavity:.2f}")
