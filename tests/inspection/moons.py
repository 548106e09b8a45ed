"""A table of two columns for the tests of displays."""

import pandas as pd
from sklearn.datasets import make_moons

MOONS = pd.DataFrame(make_moons(200, noise=0.1, random_state=0)[0], columns=["east", "north"])
