"""How estimators look in a notebook."""

import re

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.dynamics import MLPField

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


def test_there_is_no_link_as_there_is_no_site_to_lead_to(estimator):
    assert estimator._get_doc_link() == ""
    assert "href=" not in estimator_html_repr(estimator)


def test_a_notebook_is_offered_both_kinds(estimator):
    offered = estimator._repr_mimebundle_()
    assert offered["text/plain"] == repr(estimator)
    assert type(estimator).__name__ in offered["text/html"]


def test_inside_a_pipeline_and_with_a_field_of_its_own_it_is_shown_too():
    html = estimator_html_repr(make_pipeline(StandardScaler(), ODENetClassifier(field=MLPField(64))))
    assert "ODENetClassifier" in html
    assert "field" in changed(html)
