"""The code blocks of docs/cross_validation.md run as they stand."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest
from sklearn.exceptions import ConvergenceWarning

PAGE = Path(__file__).parents[2] / "docs" / "cross_validation.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
SHOWN = re.findall(r"```text\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def printed_by(snippet):
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the snippets stop early to be quick
        exec(compile(snippet, PAGE.name, "exec"), {})
    return printed.getvalue()


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs_and_prints(snippet):
    assert printed_by(snippet).strip()


def test_the_first_folds_are_as_shown():
    assert [printed_by(SNIPPETS[0])] == SHOWN
