"""From a series' own observations to a distribution of its latent initial state.

To import here a class with a ``name`` is to register it: users then have it as ``encoder=name``.
"""
# ruff: noqa: F401

from skode.timeseries.encoders.base import Encoder
from skode.timeseries.encoders.ode_rnn import ODERNNEncoder
from skode.timeseries.encoders.recurrent import GRUEncoder, RNNEncoder

#: tests/timeseries/test_encoders.py is about all of them.
ENCODERS: dict[str, type[Encoder]] = {
    vars(imported)["name"]: imported
    for imported in tuple(globals().values())
    if isinstance(imported, type) and "name" in vars(imported)
}
