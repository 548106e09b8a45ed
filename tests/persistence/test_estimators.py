"""Estimators come back from files, skops and pickles as they were, and pickles say which version made them."""

import copy
import inspect
import pickle
import warnings

import cloudpickle
import numpy as np
import pytest
import skops.io
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skode
from skode import LatentODERegressor, ODENetClassifier, ODENetRegressor, ODERegressor
from skode.persistence import (
    DamagedFileError,
    ForeignFileError,
    IncompatibleFileError,
    InconsistentSkodeVersionWarning,
    UnsavableError,
    UntrustedError,
    estimators,
    write_archive,
)
from tests.persistence import attacks, models
from tests.persistence.same import differences

CASES = list(models.CASES)
PUBLIC = [
    skode.CNFDensityEstimator,
    skode.CNFRegressor,
    skode.NeuralODERegressor,
    ODENetClassifier,
    ODENetRegressor,
    LatentODERegressor,
]


@pytest.fixture(scope="module")
def fitted():
    """Fits each case on first use."""
    known = {}
    return lambda case: known.setdefault(case, models.fitted(case))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.skode"


@pytest.mark.parametrize("case", CASES)
def test_a_loaded_estimator_answers_and_learns_as_the_saved_one(case, fitted, path):
    model, X, y = fitted(case)
    model.save(path)
    loaded = skode.load(path, trusted=models.TRUSTED)
    assert differences(model, loaded) == []
    assert differences(models.answers(copy.deepcopy(model), X, y), models.answers(loaded, X, y)) == []


@pytest.mark.parametrize("case", CASES)
def test_skops_and_pickle_keep_estimators_as_they_are(case, fitted):
    model, _, _ = fitted(case)
    archive = skops.io.dumps(model)
    names = skops.io.get_untrusted_types(data=archive)
    assert f"{type(model).__module__}.{type(model).__name__}" in names
    assert all(name.startswith(("skode.", f"{models.__name__}.")) for name in names)
    assert differences(model, skops.io.loads(archive, trusted=names)) == []
    assert differences(model, pickle.loads(pickle.dumps(model))) == []


@pytest.mark.parametrize("estimator", PUBLIC)
def test_estimators_are_saved_before_they_are_fitted(estimator, path):
    model = estimator().set_params(checkpoint=path.with_name("fit.checkpoint"))
    model.save(path)
    loaded = skode.load(path)
    assert loaded.get_params() == {**model.get_params(), "checkpoint": None}
    with pytest.raises(NotFittedError):
        loaded.predict(np.zeros((2, 2)))


def test_code_of_users_needs_their_leave(fitted, path):
    model, X, _ = fitted("own field")
    model.save(path)
    with pytest.raises(UntrustedError, match=r"models\.Field") as refused:
        skode.load(path)
    assert refused.value.names == [f"{models.__name__}.Field"]
    np.testing.assert_array_equal(skode.load(path, trusted=refused.value.names).predict(X), model.predict(X))
    with pytest.raises(UntrustedError):
        skode.load(path, trusted=["tests.persistence.models.Other"])


def test_what_is_trusted_is_a_list(path):
    ODENetClassifier().save(path)
    for trusted in ("models.Field", [3]):
        with pytest.raises(TypeError, match="trusted must be a list"):
            skode.load(path, trusted=trusted)


def test_estimators_of_users_are_saved_by_name(path):
    model = models.OwnClassifier(**models.NET).fit(models.numbers(), np.arange(30) % 2)
    model.save(path)
    with pytest.raises(UntrustedError, match="OwnClassifier"):
        skode.load(path)
    loaded = skode.load(path, trusted=[models.OwnClassifier])
    np.testing.assert_array_equal(loaded.predict_proba(models.numbers()), model.predict_proba(models.numbers()))


def test_another_version_of_scikit_learn_does_not_matter(path, monkeypatch, fitted):
    model, X, _ = fitted("classifier")
    monkeypatch.setattr("sklearn.base.__version__", "0.0.1")
    model.save(path)
    monkeypatch.undo()
    np.testing.assert_array_equal(skode.load(path).predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("local", ["lambda", "function", "class"])
def test_what_has_no_name_is_refused_when_it_is_saved(local, path):
    def rhs(t, y, p):
        return -y

    class Local(torch.nn.Module):
        pass

    given = {"lambda": lambda t, y, p: -y, "function": rhs, "class": Local()}[local]
    model = ODENetClassifier(field=given) if local == "class" else ODERegressor(given, {})
    with pytest.raises(UnsavableError, match=r"(rhs|field): .*top level of a module"):
        model.save(path)
    assert not path.exists()


def test_local_fields_are_still_pickled_by_value_and_copied(fitted):
    class Local(models.Field):
        pass

    Local.__module__ = "__main__"
    model = ODENetClassifier(**models.NET, state_size=3, field=Local()).fit(*models.table())
    X = models.table()[0]
    for other in (cloudpickle.loads(cloudpickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
    assert isinstance(clone(model).field, Local)


def test_hooks_are_refused_by_name(path):
    field = models.Field()
    field.layer.register_forward_hook(lambda module, arguments, output: None)
    with pytest.raises(UnsavableError, match=r"field.*_forward_hooks"):
        ODENetClassifier(field=field).save(path)


def test_parametrised_layers_are_refused(path):
    field = models.Field()
    torch.nn.utils.parametrizations.weight_norm(field.layer)
    with pytest.raises(UnsavableError, match="ParametrizedLinear"):
        ODENetClassifier(field=field).save(path)


def test_requests_of_metadata_are_kept(path):
    with config_context(enable_metadata_routing=True):
        model = ODENetClassifier().set_fit_request(sample_weight="weight").set_score_request(sample_weight=True)
        model.save(path)
        loaded = skode.load(path)
        assert str(loaded.get_metadata_routing()) == str(model.get_metadata_routing())
        assert loaded._metadata_request.owner is loaded
        path.write_bytes(
            attacks.objects(attacks.ESTIMATOR, ["dict", ["owner"], [3]], ["object", [0], [estimators.REQUESTS], [[1]]])
        )
        with pytest.raises(DamagedFileError):
            skode.load(path)


def test_callbacks_are_left_out(path):
    model = ODENetClassifier(**models.NET)
    model.set_callbacks(ProgressBar())
    model.save(path)
    assert not hasattr(skode.load(path), "_skl_callbacks")
    assert model._skl_callbacks


def test_a_file_does_not_say_where_checkpoints_are_written(path, tmp_path, monkeypatch):
    model = ODENetClassifier(checkpoint=tmp_path / "fit.checkpoint")
    model.save(path)
    assert skode.load(path).checkpoint is None
    monkeypatch.setattr(estimators, "LEFT_OUT", ())
    ODENetClassifier(checkpoint="/elsewhere").save(path)
    monkeypatch.undo()
    assert skode.load(path).checkpoint is None


def test_parameters_of_a_newer_version_take_their_defaults(fitted, path):
    model = copy.deepcopy(fitted("multilabel")[0])
    del model.steer
    model.save(path)
    assert skode.load(path).steer == inspect.signature(ODENetClassifier).parameters["steer"].default


def test_parameters_that_this_version_does_not_know_are_refused(path):
    model = ODENetClassifier()
    model.invented = 3
    model.save(path)
    with pytest.raises(IncompatibleFileError, match=r"ODENetClassifier.*invented"):
        skode.load(path)


def test_a_layout_that_cannot_be_read_says_whose_it_is(path, fitted, monkeypatch):
    model = copy.deepcopy(fitted("density")[0])
    object.__delattr__(model._scalers[0], "mean")
    model.save(path)
    with pytest.raises(DamagedFileError, match="Gaussianisation has no mean"):
        skode.load(path)
    monkeypatch.setattr("skode.persistence.archive.versions", lambda: {"skode": "0.0.7"})
    model.save(path)
    with pytest.raises(IncompatibleFileError, match=r"skode 0\.0\.7.*Gaussianisation has no mean"):
        skode.load(path)


def test_files_of_something_else_are_refused(path):
    write_archive(path, [1, 2], kind="checkpoint")
    with pytest.raises(ForeignFileError, match="checkpoint"):
        skode.load(path)
    path.write_bytes(pickle.dumps(ODENetClassifier()))
    with pytest.raises(ForeignFileError, match="not a file that skode wrote"):
        skode.load(path)


@pytest.mark.parametrize("version", ["0.0.1", None])
def test_pickles_of_another_version_warn(version, monkeypatch):
    monkeypatch.setattr(estimators, "__version__", version)
    made = pickle.dumps(ODENetClassifier())
    if version is None:
        made = made.replace(b"_skode_version", b"_other_version")
    monkeypatch.undo()
    with pytest.warns(InconsistentSkodeVersionWarning, match="0.0.1" if version else "an older version") as warned:
        pickle.loads(made)
    assert isinstance(warned[0].message, InconsistentVersionWarning)


def test_copies_and_pickles_of_this_version_do_not_warn(fitted):
    for case in ("classifier", "equations"):
        model, _, _ = fitted(case)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            copies = [
                copy.copy(model),
                copy.deepcopy(model),
                clone(model),
                pickle.loads(pickle.dumps(model, protocol=0)),
            ]
        assert not any("_skode_version" in vars(made) for made in copies)


def test_skops_refuses_an_archive_of_another_class(fitted):
    state = fitted("classifier")[0].__getstate__()
    with pytest.raises(DamagedFileError, match="ODENetRegressor holds a ODENetClassifier"):
        ODENetRegressor().__setstate__(state)


def test_skops_reads_pipelines(fitted):
    X = models.numbers()
    pipeline = make_pipeline(StandardScaler(), ODENetClassifier(**models.NET)).fit(X, np.arange(30) % 2)
    loaded = skops.io.loads(skops.io.dumps(pipeline), trusted=["skode.supervised.classifier.ODENetClassifier"])
    np.testing.assert_array_equal(loaded.predict_proba(X), pipeline.predict_proba(X))
