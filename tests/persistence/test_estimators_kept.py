"""Files of all releases are read, and predict what they did."""

import numpy as np
import pandas as pd
import pytest

import skode
from tests.persistence import kept, models

FILES = sorted(kept.DATA.glob("*/*.skode"))
FIRST = "0.1.0"


def test_there_is_a_file_of_each_estimator():
    assert {path.stem for path in FILES if path.parent.name == FIRST} == set(kept.CASES)


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name} {path.stem}" for path in FILES])
def test_files_of_all_releases_predict_what_they_did(path):
    model = skode.load(path, trusted=models.TRUSTED)
    for name, answer in kept.answers(model, model.kept_["X"]).items():
        before = model.kept_["answers"][name]
        if isinstance(answer, pd.DataFrame):
            pd.testing.assert_frame_equal(answer, before, rtol=1e-4)
        elif np.issubdtype(answer.dtype, np.number):
            np.testing.assert_allclose(answer, before, rtol=1e-4, atol=1e-6)  # versions of torch round in other ways
        else:
            np.testing.assert_array_equal(answer, before)
