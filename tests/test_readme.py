"""The README's code blocks run as they stand."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest
from sklearn.exceptions import ConvergenceWarning

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_is_a_snippet_for_each_estimator_and_the_solver():
    for name in ("ODENetClassifier", "CNFDensityEstimator", "LatentODERegressor", "odeint"):
        assert sum(f"import {name}" in snippet for snippet in SNIPPETS) == 1


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: re.findall(r"import (\w+)", s)[-1])
def test_snippet_runs_and_prints(snippet):
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the snippets stop early to be quick
        exec(compile(snippet, "README.md", "exec"), {})
    assert printed.getvalue().strip()


def test_there_are_exactly_two_set_up_commands():
    commands = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    assert len(commands) == 2
    assert all(command.count("\n") == 1 and command.startswith("python3 -m venv") for command in commands)
