"""``python -m skode``."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import skode
from skode import __main__ as report
from skode.solvers import METHODS, MaxStepsError


def run(capsys):
    code = report.main()
    return code, capsys.readouterr().out


@pytest.fixture(scope="module")
def whole():
    """The report as a user gets it."""
    done = subprocess.run([sys.executable, "-W", "error", "-m", "skode"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done


def test_all_is_well_here(whole):
    assert whole.returncode == 0, whole.stdout
    lines = [line for line in whole.stdout.splitlines() if line.startswith(("ok", "failed"))]
    on_cuda = report.ON_CUDA if torch.cuda.is_available() else {}
    assert [line.partition("  ")[2].strip() for line in lines] == [*report.CHECKS, *on_cuda]
    assert re.search(rf"{len(lines)} of {len(lines)} checks passed in \d+\.\d s", whole.stdout)


def test_versions_and_devices_are_named(whole):
    for name, version in (("skode", skode.__version__), ("torch", torch.__version__), ("numpy", report.np.__version__)):
        assert f"\n{name} {version}\n" in "\n" + whole.stdout
    assert re.search(r"^cpu: \d+ threads$", whole.stdout, flags=re.MULTILINE)
    assert re.search(r"^cuda(:0)?: ", whole.stdout, flags=re.MULTILINE)


def test_what_is_not_installed_is_said_not_to_be(monkeypatch):
    monkeypatch.setattr(report, "PACKAGES", ("torch", "no-such-package"))
    assert report.versions()[-1] == "no-such-package not installed"


def test_a_check_that_fails_is_reported_and_the_others_go_on(monkeypatch, capsys):
    def broken():
        raise MaxStepsError("too many", time=0.0, step_size=0.1, advice="Wait.")

    monkeypatch.setattr(report, "CHECKS", {"this fails": broken, "that holds": lambda: None})
    code, out = run(capsys)
    assert code == 1
    assert "failed  this fails: MaxStepsError: too many at t=0 with step size 0.1. Wait." in out
    assert "ok      that holds" in out
    assert "1 of 2 checks passed" in out


@pytest.mark.parametrize("name", ["check_explicit", "check_stiff", "check_methods"])
def test_a_solver_that_is_off_is_found_out(name, monkeypatch):
    solve_ivp = report.solve_ivp

    def off(*args, **kwargs):
        solution = solve_ivp(*args, **kwargs)
        return replace(solution, y=solution.y * 1.05)

    monkeypatch.setattr(report, "solve_ivp", off)
    with pytest.raises(report.CheckError, match="off by"):
        getattr(report, name)()


@pytest.mark.parametrize("broken", report.ADJOINTS)
def test_an_adjoint_that_disagrees_is_found_out(broken, monkeypatch):
    gradients = report.gradients

    def off(adjoint, field, parameters):
        return gradients(adjoint, field, parameters) * (1.001 if adjoint == broken else 1.0)

    monkeypatch.setattr(report, "gradients", off)
    with pytest.raises(report.CheckError, match="off by"):
        report.check_adjoints()


@pytest.mark.parametrize(
    ("name", "estimator", "method"),
    [
        ("check_classifier", skode.ODENetClassifier, "predict_proba"),
        ("check_regressor", skode.ODENetRegressor, "predict"),
        ("check_density", skode.CNFDensityEstimator, "sample"),
        ("check_series", skode.LatentODERegressor, "predict"),
    ],
)
def test_an_estimator_that_answers_nan_is_found_out(name, estimator, method, monkeypatch):
    answer = getattr(estimator, method)

    def nothing(self, *args, **kwargs):
        answers = answer(self, *args, **kwargs)
        return tuple(a * float("nan") for a in answers) if isinstance(answers, tuple) else answers * float("nan")

    monkeypatch.setattr(estimator, method, nothing)
    with pytest.raises(report.CheckError, match="NaN"):
        getattr(report, name)()


def test_a_classifier_that_learns_nothing_is_found_out(monkeypatch):
    monkeypatch.setattr(skode.ODENetClassifier, "score", lambda self, X, y: 0.5)
    with pytest.raises(report.CheckError, match="accuracy"):
        report.check_classifier()


def test_every_method_is_among_those_checked(monkeypatch):
    seen = []
    solve_ivp = report.solve_ivp
    monkeypatch.setattr(report, "solve_ivp", lambda *a, **k: (seen.append(k["method"]), solve_ivp(*a, **k))[1])
    report.check_methods()
    assert seen == list(METHODS)


def test_cuda_is_checked_where_there_is_one(monkeypatch, capsys):
    monkeypatch.setattr(report, "devices", lambda: ["cuda:0: pretended"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(report, "CHECKS", {})
    monkeypatch.setattr(report, "ON_CUDA", {"cuda works": lambda: None})
    code, out = run(capsys)
    assert code == 0
    assert "ok      cuda works" in out


def test_help_says_what_it_does_and_nothing_is_run(capsys):
    with pytest.raises(SystemExit) as ended:
        report.main(["--help"])
    assert ended.value.code == 0
    assert "whether everything works here" in capsys.readouterr().out
