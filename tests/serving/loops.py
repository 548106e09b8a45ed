"""The loop of graphs, run by Python: the same values without the time that it takes to make a graph."""


def python_loop(goes_on, following, state):
    """``torch.while_loop``."""
    while goes_on(*state):
        state = following(*state)
    return state
