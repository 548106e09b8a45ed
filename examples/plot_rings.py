"""Rings that a plane flow can't take apart
========================================

Solutions of an ODE don't cross. No flow of the plane carries a disc out through the ring around it, so a plain ODE-Net
of two features can't separate them by a line at the end. One more dimension, appended as a zero, lets the disc rise out
of the plane (Dupont, Doucet, Teh, "Augmented Neural ODEs", NeurIPS 2019).
"""

# %%
# A disc inside a ring. ``state_size=None`` makes the features themselves the state; ``augment_dim`` appends zeros.

# sphinx_gallery_thumbnail_path = "images/thumb_plot_rings.png"

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import make_circles

from skode import ODENetClassifier
from skode.inspection import TrajectoryDisplay

X, y = make_circles(600, factor=0.3, noise=0.05, random_state=0)
settings = {"state_size": None, "input_dropout": 0.0, "learning_rate_init": 5e-3, "batch_size": 64, "max_iter": 60}
models = {
    f"augment_dim={augment_dim}": ODENetClassifier((32,), augment_dim=augment_dim, random_state=0, **settings).fit(X, y)
    for augment_dim in (0, 1)
}
for name, model in models.items():
    print(f"{name}: loss {model.loss_:.4f}, {np.mean(model.nfe_forward_[-5:]):.0f} evaluations per solve")

# %%
# A loss of log 2 = 0.693 is that of a coin: the flow of the plane has found nothing. Where points go along depth shows
# why, and how the augmented one lifts one class off the other: its picture has the first state and the one appended.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
shown = slice(0, 150)
for ax, (name, model), components in zip(axes, models.items(), [(0, 1), (0, 2)], strict=True):
    TrajectoryDisplay.from_estimator(model, X[shown], c=y[shown], components=components, ax=ax, alpha=0.4)
    ax.set_title(name)
