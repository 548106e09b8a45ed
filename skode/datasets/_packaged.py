"""The packaged files under ``data/`` and what their README says about them."""

from importlib.resources import files
from typing import Any

import pandas as pd
from sklearn.utils import Bunch

_DATA = files("skode.datasets").joinpath("data")


def read_packaged_csv(file_name: str, **read_csv_options: Any) -> pd.DataFrame:
    """Read ``data/<file_name>``; the options go to :func:`pandas.read_csv`."""
    with _DATA.joinpath(file_name).open("rb") as file:
        return pd.read_csv(file, **read_csv_options)


def packaged_description(file_name: str) -> str:
    """Return the section of ``data/README.md`` headed ``## <file_name>``."""
    sections = _DATA.joinpath("README.md").read_text(encoding="utf-8").split("\n## ")
    return next(section for section in sections if section.startswith(f"{file_name}\n"))


def make_bunch(frame: pd.DataFrame, file_name: str, *, features: list[str], target: str | list[str]) -> Bunch:
    """Split ``frame`` into features and one target or several, in the layout of scikit-learn's own loaders."""
    return Bunch(
        frame=frame,
        data=frame[features],
        target=frame[target],
        feature_names=features,
        target_names=[target] if isinstance(target, str) else target,
        DESCR=packaged_description(file_name),
        filename=str(_DATA.joinpath(file_name)),
    )
