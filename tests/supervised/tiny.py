"""Parameters of a classifier that is fitted in no time."""

TINY = {
    "hidden_layer_sizes": (8,),
    "state_size": 4,
    "max_iter": 3,
    "learning_rate": "constant",
    "learning_rate_init": 1e-2,
    "alpha": 1e-4,
    "batch_size": 200,
    "input_dropout": 0.0,
    "random_state": 0,
}
