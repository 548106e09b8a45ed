"""How estimators look in a notebook."""

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.dynamics import MLPField
from skode.training import documentation

X = np.random.RandomState(0).normal(size=(30, 2))

ESTIMATORS = [
    ODENetClassifier(state_size=3, max_iter=1),
    ODENetRegressor(state_size=3, max_iter=1),
    CNFDensityEstimator((4,), max_iter=1),
    LatentODERegressor(latent_size=2, hidden_layer_sizes=(4,), encoder_size=4, max_iter=1),
]


@pytest.fixture(params=ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def estimator(request):
    return request.param


def changed(html):
    """The parameters that stand out, and their values."""
    rows = re.findall(r'<tr class="user-set">(.*?)</tr>', html, flags=re.DOTALL)
    cells = [re.findall(r'<td class="(?:param|value)">(.*?)</td>', row, flags=re.DOTALL) for row in rows]
    return {name.strip(): value.strip() for name, value in cells}


def test_parameters_that_are_not_the_defaults_stand_out(estimator):
    defaults = type(estimator)().get_params()
    expected = {name: repr(value) for name, value in estimator.get_params().items() if value != defaults[name]}
    assert expected
    assert changed(estimator_html_repr(estimator)) == expected


@pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
def test_whether_it_is_fitted_shows(estimator):
    assert "<span>Not fitted</span>" in estimator_html_repr(estimator)
    html = estimator_html_repr(estimator.fit(X, X[:, 0] > 0))
    assert "<span>Fitted</span>" in html
    assert "loss_curve_" in html


@pytest.fixture
def project_urls(monkeypatch):
    """Sets the addresses in the package's metadata."""

    def published(*urls):
        described = Message()
        for url in urls:
            described["Project-URL"] = url
        monkeypatch.setattr(documentation, "metadata", lambda name: described)
        documentation.documentation_site.cache_clear()

    yield published
    documentation.documentation_site.cache_clear()


def test_the_link_leads_to_the_page_of_the_reference(estimator, project_urls):
    project_urls("Source, https://example.org/code", "Documentation, https://example.org/skode/")
    name = type(estimator).__name__
    # docs/api/estimators.rst has sphinx write each page to generated/, under the full name.
    assert estimator._get_doc_link() == f"https://example.org/skode/api/generated/skode.{name}.html"
    html = estimator_html_repr(make_pipeline(StandardScaler(), estimator))
    assert f'href="https://example.org/skode/api/generated/skode.{name}.html"' in html
    assert f"Documentation for {name}" in html


def test_without_a_site_there_is_no_link(estimator, project_urls):
    project_urls("Source, https://example.org/code")
    assert estimator._get_doc_link() == ""
    assert "href=" not in estimator_html_repr(estimator)


def test_an_estimator_of_the_users_own_has_no_page(project_urls):
    project_urls("Documentation, https://example.org/skode")

    class Mine(ODENetClassifier):
        pass

    assert Mine()._get_doc_link() == ""


def test_a_checkout_that_is_not_installed_has_no_link(estimator, monkeypatch, project_urls):
    def not_installed(name):
        raise PackageNotFoundError(name)

    project_urls()
    monkeypatch.setattr(documentation, "metadata", not_installed)
    assert estimator._get_doc_link() == ""


def test_pages_are_where_the_link_says():
    page = (Path(__file__).parents[2] / "docs" / "api" / "estimators.rst").read_text()
    assert ".. currentmodule:: skode\n" in page
    assert ":toctree: generated/\n" in page
    assert all(f"   {type(estimator).__name__}\n" in page for estimator in ESTIMATORS)


def test_a_notebook_is_offered_both_kinds(estimator):
    offered = estimator._repr_mimebundle_()
    assert offered["text/plain"] == repr(estimator)
    assert type(estimator).__name__ in offered["text/html"]


def test_inside_a_pipeline_and_with_a_field_of_its_own_it_is_shown_too():
    html = estimator_html_repr(make_pipeline(StandardScaler(), ODENetClassifier(field=MLPField(64))))
    assert "ODENetClassifier" in html
    assert "field" in changed(html)
