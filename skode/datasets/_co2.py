"""Weekly atmospheric CO2 at Mauna Loa."""

import pandas as pd
from sklearn.utils import Bunch
from sklearn.utils._param_validation import validate_params

from skode.datasets._packaged import make_bunch, read_packaged_csv


@validate_params({"return_X_y": ["boolean"]}, prefer_skip_nested_validation=True)
def load_co2(*, return_X_y: bool = False) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load the weekly atmospheric CO2 concentrations at Mauna Loa, 1958 to 2001.

    A single long series with a trend, a yearly cycle and gaps [1]_. Weeks in which nothing was
    measured are kept as rows whose ``co2`` is NaN, because NaN means "not observed" throughout skode.

    =================   ====================================
    Rows                2284, every Saturday
    First, last         1958-03-29, 2001-12-29
    Missing values      59, all in ``co2``
    =================   ====================================

    Parameters
    ----------
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes

        frame : DataFrame of shape (2284, 2)
            Columns ``date`` (datetime64, the Saturday that labels the week) and ``co2`` (mean of the
            week in parts per million by volume; NaN = not observed).
        data : DataFrame of shape (2284, 1)
            The column ``date``.
        target : Series of shape (2284,)
            The column ``co2``, with its NaN.
        feature_names, target_names : list of str
            The column names of ``data`` and the name of ``target``.
        DESCR : str
            Description, source, licence and derivation.
        filename : str
            Path of the CSV file.
    (data, target) : tuple of (DataFrame, Series)
        If ``return_X_y`` is True.

    Raises
    ------
    ValueError
        If ``return_X_y`` is not a bool.

    References
    ----------
    .. [1] Keeling, C.D. and T.P. Whorf (2004). Atmospheric CO2 concentrations derived from flask air
       samples at sites in the SIO network. In Trends: A Compendium of Data on Global Change. Carbon
       Dioxide Information Analysis Center, Oak Ridge National Laboratory, U.S. Department of Energy,
       Oak Ridge, Tennessee, U.S.A. File from statsmodels 0.15.0, public domain.

    Examples
    --------
    >>> from skode.datasets import load_co2
    >>> X, y = load_co2(return_X_y=True)
    >>> X.shape, y.shape
    ((2284, 1), (2284,))
    >>> int(y.isna().sum())
    59

    """
    file_name = "co2.csv"
    frame = read_packaged_csv(file_name, parse_dates=["date"], date_format="%Y%m%d")
    dataset = make_bunch(frame, file_name, features=["date"], target="co2")
    return (dataset.data, dataset.target) if return_X_y else dataset
