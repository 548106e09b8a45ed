"""Two damped springs, and their equations, for the tests of displays of equations."""

import numpy as np
import pandas as pd
import torch

STIFFNESS, DAMPING = 2.0, 0.4
MATRIX = np.array([[0.0, 1.0], [-STIFFNESS, -DAMPING]])


def spring(t, y, p):
    place, speed = y.unbind(-1)
    return torch.stack([speed, -p["stiffness"] * place - p["damping"] * speed], dim=-1)


def springs():
    """A long frame of two series of 15 rows, shuffled, and noisy places and speeds."""
    t = np.linspace(0.0, 4.0, 15)
    values, vectors = np.linalg.eig(MATRIX)
    frames = []
    for name, start in (("ann", [1.0, 0.0]), ("bob", [0.0, 2.0])):
        weights = np.linalg.solve(vectors, start)
        states = (vectors @ (weights[:, None] * np.exp(values[:, None] * t))).real.T
        frames.append(pd.DataFrame({"who": name, "when": t, "place": states[:, 0], "speed": states[:, 1]}))
    frame = pd.concat(frames).sample(frac=1.0, random_state=0, ignore_index=True)
    y = frame[["place", "speed"]] + 0.05 * np.random.default_rng(0).standard_normal((30, 2))
    y.iloc[3, 0] = np.nan
    return frame[["who", "when"]], y
