"""Time to fit a classifier, beside MLPClassifier and torchdiffeq: ``python -m tests.benchmarks.fit``."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from skode import ODENetClassifier
from skode.supervised.odenet import ODENet
from tests.benchmarks.report import machine, table, write
from tests.benchmarks.timing import interleaved, milliseconds, ratio

EPOCHS, BATCH, TOLERANCE = 10, 200, 1e-3

NOTES = """\
Ten epochs on the handwritten digits of scikit-learn (1,797 x 64), batches of 200, Adam, float32, one thread: medians
over interleaved rounds. 'torchdiffeq' trains the same network (a map to 64 states, a tanh perceptron 64-64-64 over
0 <= t <= 1, dopri5 at 1e-3, a map to 10 classes) in a plain loop. MLPClassifier has one hidden layer of 100."""


def with_torchdiffeq(solver: Callable[..., Tensor], X: Tensor, y: Tensor) -> Callable[[], Any]:
    """What trains the network through torchdiffeq."""
    times = torch.tensor([0.0, 1.0])

    def call() -> None:
        generator = torch.Generator().manual_seed(0)
        options = {"hidden_layer_sizes": (64,), "activation": "tanh", "time_dependent": True}
        net = ODENet(
            X.shape[1], 10, state_size=64, augment_dim=0, field=None, field_options=options, generator=generator
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        settings = {"adjoint_params": tuple(net.field.parameters())} if "adjoint" in solver.__name__ else {}
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(X), generator=generator).split(BATCH):
                z = solver(net.field, net.embedding(X[rows]), times, rtol=TOLERANCE, atol=TOLERANCE, **settings)[-1]
                loss = functional.cross_entropy(net.head(z), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return call


def main() -> None:
    """Time all, print the table, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    X, y = load_digits(return_X_y=True)
    settings = {"max_iter": EPOCHS, "n_iter_no_change": EPOCHS + 1, "random_state": 0}
    calls: dict[str, Callable[[], Any]] = {
        "ODENetClassifier": lambda: ODENetClassifier(**settings, learning_rate_init=1e-3, input_dropout=0.0).fit(X, y),
        "MLPClassifier": lambda: MLPClassifier(**settings).fit(X, y),
    }
    try:
        from torchdiffeq import odeint, odeint_adjoint
    except ImportError:
        pass
    else:
        scaled = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)
        labels = torch.from_numpy(y)
        calls["torchdiffeq odeint"] = with_torchdiffeq(odeint, scaled, labels)
        calls["torchdiffeq odeint_adjoint"] = with_torchdiffeq(odeint_adjoint, scaled, labels)
    with threadpool_limits(1):
        taken = interleaved(calls, rounds=options.rounds)
    ours = taken["ODENetClassifier"]
    rows = [[name, milliseconds(durations), ratio(durations, ours)] for name, durations in taken.items()]
    body = f"{NOTES}\n\n" + table(["", "ms", "/ ODENetClassifier"], rows)
    command = "python -m tests.benchmarks.fit"
    print(machine(command), body, sep="\n\n")
    if options.out:
        write(options.out, "Fitting", body, command)


if __name__ == "__main__":
    main()
