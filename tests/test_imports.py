"""Imports point one way: estimators -> training -> dynamics -> solvers, and so inside the solvers.

Read off the source, without importing it.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "skode"

#: From the bottom up. A part imports from the lines above its own, and from itself.
LAYERS = (
    {"solvers", "datasets"},
    {"dynamics"},
    {"training"},
    {"frames"},
    {"supervised", "density", "timeseries"},
    {"model_selection"},
    {"inspection"},
    {"__init__"},
    {"__main__"},
)
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
#: The same inside ``skode/solvers``.
SOLVER_LAYERS = (
    {"errors", "statistics", "devices", "indexing", "nearest_time"},
    {"buffer_pool", "tableaus"},
    {"fields"},
    {"transforms", "autocast"},
    {"first_order", "tolerances"},
    {"stepping", "time_gradients"},
    {"forward"},
    {"dense_output", "device"},
    {"integrate", "solution"},
    {"adjoints"},
    {"engine", "scipy_solver"},
    {"arguments"},
    {"ivp_call", "odeint_call"},
    {"ivp", "odeint"},
    {"__init__"},
)
SOLVER_HEIGHT = {part: height for height, layer in enumerate(SOLVER_LAYERS) for part in layer}
#: Libraries that the solvers and the fields know nothing of.
FOR_ESTIMATORS = {"sklearn", "pandas", "joblib", "matplotlib"}


def part_of(path):
    """The folder of ``skode/`` that a file is in, or the file's own name."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(source):
    """Names of the modules that source imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            # ``from skode import solvers`` names a part just as ``from skode.solvers import ...`` does.
            yield from ([f"skode.{alias.name}" for alias in node.names] if node.module == "skode" else [node.module])


def parts_imported(source):
    """The parts of skode among them; ``__init__`` for the names of the package itself."""
    for name in imported(source):
        root, *rest = name.split(".")
        if root == "skode":
            yield rest[0] if rest and rest[0] in HEIGHT else "__init__"


def solver_part_of(path):
    """The folder of ``skode/solvers/`` that a file is in, or the file's own name."""
    return path.relative_to(ROOT / "solvers").parts[0].removesuffix(".py")


def solver_parts_imported(source):
    """The parts of ``skode.solvers`` that source imports; ``__init__`` for the public names themselves."""
    for name in imported(source):
        root, *rest = name.split(".")
        if root == "skode" and rest[:1] == ["solvers"]:
            yield rest[1] if len(rest) > 1 else "__init__"


SOURCES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}


def test_every_part_of_the_package_has_a_place():
    assert {part_of(path) for path in SOURCES.values()} <= HEIGHT.keys()


@pytest.mark.parametrize("file", SOURCES)
def test_a_file_imports_only_from_below(file):
    own = part_of(SOURCES[file])
    above = {part for part in parts_imported(SOURCES[file].read_text()) if HEIGHT[part] >= HEIGHT[own]}
    assert above <= {own}


@pytest.mark.parametrize("file", [file for file in SOURCES if file.startswith(("solvers/", "dynamics/"))])
def test_solvers_and_fields_know_nothing_of_estimators(file):
    libraries = {name.split(".")[0] for name in imported(SOURCES[file].read_text())}
    assert not libraries & FOR_ESTIMATORS


SOLVERS = [file for file in SOURCES if file.startswith("solvers/")]


def test_every_part_of_the_solvers_has_a_place():
    assert {solver_part_of(SOURCES[file]) for file in SOLVERS} == SOLVER_HEIGHT.keys()


@pytest.mark.parametrize("file", SOLVERS)
def test_a_file_of_the_solvers_imports_only_from_below(file):
    own = solver_part_of(SOURCES[file])
    parts = set(solver_parts_imported(SOURCES[file].read_text()))
    assert {part for part in parts if SOLVER_HEIGHT[part] >= SOLVER_HEIGHT[own]} <= {own}


def modules_imported(source):
    """The files of skode that source imports from, as modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module


def test_no_files_import_each_other():
    modules = {"skode." + file.removesuffix(".py").replace("/", "."): path for file, path in SOURCES.items()}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    imports = {
        name: {other for other in modules_imported(path.read_text()) if other in modules and other != name}
        for name, path in modules.items()
    }
    # The parts of a package import from it what they name in full; its own file comes after all of them.
    imports = {name: {o for o in others if not name.startswith(o + ".")} for name, others in imports.items()}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the files


def test_no_part_needs_the_data_sets():
    users = {part_of(path) for path in SOURCES.values() if "datasets" in set(parts_imported(path.read_text()))}
    assert users <= {"datasets", "__init__", "__main__"}


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import torch", []),
        ("import skode", ["__init__"]),
        ("from skode import ODENetClassifier", ["__init__"]),
        ("from skode import solvers, training", ["solvers", "training"]),
        ("def f():\n    from skode.density.flow import Flow", ["density"]),
        ("import skode.frames as frames", ["frames"]),
    ],
)
def test_imports_are_read_wherever_they_stand(source, parts):
    assert list(parts_imported(source)) == parts
