"""Pelts of snowshoe hares and Canada lynxes."""

import pandas as pd
from sklearn.utils import Bunch
from sklearn.utils._param_validation import validate_params

from skode.datasets._packaged import make_bunch, read_packaged_csv


@validate_params({"return_X_y": ["boolean"]}, prefer_skip_nested_validation=True)
def load_hare_lynx(*, return_X_y: bool = False) -> Bunch | tuple[pd.DataFrame, pd.DataFrame]:
    """Load the pelts of hares and lynxes that the Hudson's Bay Company collected, 1900 to 1920.

    The classical example of predator and prey whose numbers oscillate [1]_ [2]_.

    =================   =====================================
    Rows                21, every year
    First, last         1900, 1920
    Missing values      0
    =================   =====================================

    Parameters
    ----------
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes

        frame : DataFrame of shape (21, 3)
            Columns ``year``, ``hare`` and ``lynx`` (pelts of the year, in thousands).
        data : DataFrame of shape (21, 1)
            The column ``year``.
        target : DataFrame of shape (21, 2)
            The columns ``hare`` and ``lynx``.
        feature_names, target_names : list of str
            The column names of ``data`` and of ``target``.
        DESCR : str
            Description, source, licence and derivation.
        filename : str
            Path of the CSV file.
    (data, target) : tuple of (DataFrame, DataFrame)
        If ``return_X_y`` is True.

    Raises
    ------
    ValueError
        If ``return_X_y`` is not a bool.

    References
    ----------
    .. [1] Hewitt, C. G. (1921). The Conservation of the Wild Life of Canada. Charles Scribner's Sons.
    .. [2] Carpenter, B. (2018). Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan. Stan Case
       Studies. Values from posteriordb, BSD-3-Clause, https://github.com/stan-dev/posteriordb.

    Examples
    --------
    >>> from skode.datasets import load_hare_lynx
    >>> X, y = load_hare_lynx(return_X_y=True)
    >>> X.shape, y.columns.tolist()
    ((21, 1), ['hare', 'lynx'])
    >>> y.max().tolist()
    [77.4, 59.4]

    """
    file_name = "hare_lynx.csv"
    frame = read_packaged_csv(file_name)
    dataset = make_bunch(frame, file_name, features=["year"], target=["hare", "lynx"])
    return (dataset.data, dataset.target) if return_X_y else dataset
