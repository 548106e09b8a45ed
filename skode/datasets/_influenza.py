"""Influenza in a boarding school."""

import pandas as pd
from sklearn.utils import Bunch
from sklearn.utils._param_validation import validate_params

from skode.datasets._packaged import make_bunch, read_packaged_csv


@validate_params({"return_X_y": ["boolean"]}, prefer_skip_nested_validation=True)
def load_influenza(*, return_X_y: bool = False) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load the days of an influenza epidemic in an English boarding school, 1978.

    Of 763 boys 512 fell ill within two weeks, from one who came back ill after the holidays [1]_.

    =================   =====================================
    Rows                14, every day
    First, last         1978-01-22, 1978-02-04
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

        frame : DataFrame of shape (14, 4)
            Columns ``date`` (datetime64), ``day`` (1 to 14), ``in_bed`` (number of boys in bed) and ``convalescent``
            (number of boys who are up again, but not yet well).
        data : DataFrame of shape (14, 1)
            The column ``day``.
        target : Series of shape (14,)
            The column ``in_bed``.
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
    .. [1] Anonymous (1978). Influenza in a boarding school. British Medical Journal 1, 587. As read off its figure
       by de Vries, G. et al. (2006), A Course in Mathematical Biology, SIAM, chapter 9. Values from the R package
       outbreaks, MIT, https://github.com/reconverse/outbreaks.

    Examples
    --------
    >>> from skode.datasets import load_influenza
    >>> X, y = load_influenza(return_X_y=True)
    >>> X.shape, y.name, int(y.max())
    ((14, 1), 'in_bed', 298)

    """
    file_name = "influenza.csv"
    frame = read_packaged_csv(file_name, parse_dates=["date"], date_format="%Y%m%d")
    dataset = make_bunch(frame, file_name, features=["day"], target="in_bed")
    return (dataset.data, dataset.target) if return_X_y else dataset
