"""The README's code blocks run as they stand."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest
from sklearn.exceptions import ConvergenceWarning

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_four_snippets_one_for_each_kind_of_model():
    assert len(SNIPPETS) == 4
    for name in ("ODENetClassifier", "CNFDensityEstimator", "LatentODERegressor", "ODERegressor"):
        assert sum(f"import {name}" in snippet for snippet in SNIPPETS) == 1


def test_links_and_pictures_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_commands_of_the_benchmarks_exist():
    modules = set(re.findall(r"`(tests\.benchmarks\.\w+)", README))
    assert modules
    assert [module for module in modules if not (ROOT / (module.replace(".", "/") + ".py")).is_file()] == []


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: re.search(r"from skode import (\w+)", s)[1])
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
