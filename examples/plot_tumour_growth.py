"""Forecasts of tumours, with bands
================================

Thirty mice, four doses of erlotinib, two or three measurements a week; some mice were measured for 30 days, others for
less. One row is one measurement, and goes into the model as it is.
"""

# %%
# Of all mice but one, the last week is held out: :class:`skode.model_selection.ForecastSplit` marks its rows.

# sphinx_gallery_thumbnail_number = 2

import numpy as np

from skode import LatentODERegressor
from skode.datasets import load_tumour_growth
from skode.inspection import SeriesForecastDisplay
from skode.model_selection import ForecastSplit

X, y = load_tumour_growth(return_X_y=True)
y = np.log(y.clip(lower=0.005)).rename("log volume")  # tumours grow in proportion to their size
print(X.head(3))
new = X["mouse"] == "m040"
X_known, y_known = X[~new], y[~new]
train, test = next(ForecastSplit(1, series="mouse", time="day", horizon=7).split(X_known))
model = LatentODERegressor(series="mouse", time="day", max_iter=60, random_state=0)
model.fit(X_known.iloc[train], y_known.iloc[train])
print(f"R² of the last week: {model.score(X_known.iloc[test], y_known.iloc[test]):.2f}")

# %%
# Observations, mean, and a band that should hold 90 % of observations: mice without treatment, with a low and with a
# high dose.

mice = [X_known.loc[X_known["dose"] == dose, "mouse"].iloc[0] for dose in (0, 6.25, 100)]
display = SeriesForecastDisplay.from_estimator(model, X_known, y_known, series=mice, held_out=test)

# %%
# The mouse that the model has never seen is taken in by its observations, without training again. Six of them are told,
# the others forecast.

display = SeriesForecastDisplay.from_estimator(model, X[new], y[new], held_out=range(6, new.sum()), condition=True)
