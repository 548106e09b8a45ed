"""Parameters of a density estimator that is fitted in no time."""

TINY = {"hidden_layer_sizes": (8,), "max_iter": 3, "learning_rate_init": 1e-2, "random_state": 0, "stacking": False}
