"""One training loop for all estimators."""

from skode.training.array_api import array_api, array_api_fit, as_numpy
from skode.training.blocks import BlockSamples, SamplesPart, by_blocks, drawn_rows
from skode.training.caller import warn_caller, warn_of_overflow
from skode.training.checkpoint import Checkpoint
from skode.training.checks import (
    check_argument,
    check_column_names,
    check_data,
    check_labels,
    check_level,
    check_missing_labels,
    check_numeric_targets,
    check_squares,
    check_weights,
    first_not_a_number,
    in_rows,
)
from skode.training.company import whole
from skode.training.dataframes import as_python, categorical_positions, missing_as_nan, to_pandas
from skode.training.draft import draft
from skode.training.estimator import NeuralODEEstimator
from skode.training.failures import memory_for
from skode.training.images import shifted
from skode.training.loop import train
from skode.training.partitions import by_partition, scored_by_partition
from skode.training.penalties import PenalisedSolver, Regularisation
from skode.training.record import INTERRUPTED, Objective, TrainingRecord
from skode.training.samples import distinct, row_groups
from skode.training.scores import observed_r2
from skode.training.settings import AUTO_BATCH_SIZE, COMMON_CONSTRAINTS, TrainingSettings
from skode.training.snapshot import of_one_model
from skode.training.solver import Solver
from skode.training.sparse import SparseFeatures
from skode.training.stopwatch import Stopwatch, say
from skode.training.tensors import (
    as_index,
    check_unit_times,
    fitted_on,
    fitted_scaler,
    new_generator,
    resolve_device,
    resolve_dtype,
    sound_scaler,
    standardised,
    to_numpy,
    to_tensor,
)
from skode.training.threads import worthwhile_threads
from skode.training.users_field import users_field

__all__ = [
    "AUTO_BATCH_SIZE",
    "COMMON_CONSTRAINTS",
    "INTERRUPTED",
    "BlockSamples",
    "Checkpoint",
    "NeuralODEEstimator",
    "Objective",
    "PenalisedSolver",
    "Regularisation",
    "SamplesPart",
    "Solver",
    "SparseFeatures",
    "Stopwatch",
    "TrainingRecord",
    "TrainingSettings",
    "array_api",
    "array_api_fit",
    "as_index",
    "as_numpy",
    "as_python",
    "by_blocks",
    "by_partition",
    "categorical_positions",
    "check_argument",
    "check_column_names",
    "check_data",
    "check_labels",
    "check_level",
    "check_missing_labels",
    "check_numeric_targets",
    "check_squares",
    "check_unit_times",
    "check_weights",
    "distinct",
    "draft",
    "drawn_rows",
    "first_not_a_number",
    "fitted_on",
    "fitted_scaler",
    "in_rows",
    "memory_for",
    "missing_as_nan",
    "new_generator",
    "observed_r2",
    "of_one_model",
    "resolve_device",
    "resolve_dtype",
    "row_groups",
    "say",
    "scored_by_partition",
    "shifted",
    "sound_scaler",
    "standardised",
    "to_numpy",
    "to_pandas",
    "to_tensor",
    "train",
    "users_field",
    "warn_caller",
    "warn_of_overflow",
    "whole",
    "worthwhile_threads",
]
