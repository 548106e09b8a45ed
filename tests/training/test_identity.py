"""Fits are told apart by the digests of all that they depend on, and the message says by what."""

import numpy as np
import pytest

from skode import ODENetClassifier
from skode.training.identity import differences, identity


def test_what_is_no_part_of_a_fit_does_not_count():
    X = np.eye(2)
    plain = identity(ODENetClassifier(), {"X": X})
    told = identity(ODENetClassifier(verbose=True, checkpoint="file", checkpoint_interval=1.0), {"X": X})
    assert not differences(plain, told)


@pytest.mark.parametrize("value", [3.5, None, [1, 2], "word"])
def test_data_that_fits_refuse_have_a_digest(value):
    identity(ODENetClassifier(), {"X": value})


def test_messages_name_no_places_in_memory():
    entries = [identity(ODENetClassifier(class_weight=lambda: 1), {}), identity(ODENetClassifier(), {})]
    assert " at 0x" not in "".join(differences(*entries))
