"""Files and functions stay small enough to be read: bounds on lines and on parameters."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "skode"
SOURCES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}

MOST_LINES, MOST_LINES_OF_CODE = 600, 400
MOST_PARAMETERS = 8

#: Public functions with as many parameters as users are to have, in words that they know from elsewhere.
DOORS = {
    "datasets/_lotka_volterra.py": {"make_lotka_volterra"},
    "datasets/_pendulum.py": {"make_damped_pendulum"},
    "inspection/density.py": {"from_estimator"},
    "inspection/density_evolution.py": {"from_estimator"},
    "inspection/ode_fit.py": {"from_estimator"},
    "inspection/series_forecast.py": {"from_estimator"},
    "inspection/tolerance.py": {"from_estimator"},
    "inspection/trajectory.py": {"from_estimator"},
    "inspection/vector_field.py": {"from_estimator"},
    "solvers/ivp.py": {"solve_ivp"},
    "solvers/odeint.py": {"odeint", "odeint_adjoint"},
}

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def lines_of_docstrings(tree):
    """Number of lines that docstrings take."""
    total = 0
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            total += node.body[0].end_lineno - node.body[0].lineno + 1
    return total


def n_parameters(function):
    """Number of parameters besides ``self`` and ``cls``."""
    a = function.args
    named = [one.arg for one in (*a.posonlyargs, *a.args, *a.kwonlyargs) if one.arg not in ("self", "cls")]
    return len(named) + (a.vararg is not None) + (a.kwarg is not None)


def too_wide(tree):
    """Names of the functions, constructors aside, that have too many parameters."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {f.name for f in functions if f.name != "__init__" and n_parameters(f) > MOST_PARAMETERS}


@pytest.mark.parametrize("file", SOURCES)
def test_a_file_is_short(file):
    source = SOURCES[file].read_text()
    n_lines = len(source.splitlines())
    assert n_lines <= MOST_LINES
    assert n_lines - lines_of_docstrings(ast.parse(source)) <= MOST_LINES_OF_CODE


@pytest.mark.parametrize("file", SOURCES)
def test_functions_have_few_parameters(file):
    assert too_wide(ast.parse(SOURCES[file].read_text())) == DOORS.get(file, set())


def test_what_is_counted():
    tree = ast.parse('''"""One line."""

class A:
    """Two
    lines."""

    def __init__(self, a, b, c, d, e, f, g, h, i): ...

    def f(self, a, b, c, d, /, e, f, *args, g): ...

    async def g(self, a, b, c, d, e, f, g, *, h, **rest): ...
''')
    assert lines_of_docstrings(tree) == 3
    assert too_wide(tree) == {"g"}
