"""Tumour volumes of mice under four doses of erlotinib."""

import pandas as pd
from sklearn.utils import Bunch
from sklearn.utils._param_validation import validate_params

from skode.datasets._packaged import make_bunch, read_packaged_csv


@validate_params({"return_X_y": ["boolean"]}, prefer_skip_nested_validation=True)
def load_tumour_growth(*, return_X_y: bool = False) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load the growth of lung cancer tumours in mice under four doses of erlotinib.

    Thirty mice with patient-derived lung cancer implants, in a control group and three groups given
    erlotinib by mouth between day 3 and day 16. Tumour volume and body weight were measured two or
    three times a week for up to 30 days [1]_. One row is one measurement of one mouse, so the data
    have the row-wise form of :class:`~skode.timeseries.LatentODERegressor` with ``series="mouse"``
    and ``time="day"``.

    =================   ==========================================
    Mice                30 (control 8, low 8, medium 8, high 6)
    Rows                397, 6 to 14 for a mouse
    Missing values      0
    =================   ==========================================

    Parameters
    ----------
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    dataset : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the attributes

        frame : DataFrame of shape (397, 6)
            Columns ``mouse`` (string id), ``group`` (control, low, medium or high), ``dose``
            (mg of erlotinib per kg body weight on each dosing day: 0, 6.25, 25 or 100), ``day``
            (float, days), ``weight`` (body weight on that day, g) and ``volume`` (cm^3). Ordered by
            group, mouse and day.
        data : DataFrame of shape (397, 3)
            The columns ``mouse``, ``day`` and ``dose``.
        target : Series of shape (397,)
            The column ``volume``, in cm^3.
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

    Notes
    -----
    ``dose`` is a property of the group, the same in every row of a mouse, also on days without a dose.
    ``DESCR`` lists the dosing days, the early drop-outs and one volume that looks like a placeholder.

    References
    ----------
    .. [1] Eigenmann, M. J. et al. (2016). Combining Nonclinical Experiments with Translational PKPD
       Modeling to Differentiate Erlotinib and Gefitinib. Molecular Cancer Therapeutics, 15(12),
       3110-3119. Files from chi-drm 1.0.3, BSD-3-Clause, https://github.com/DavAug/chi.

    Examples
    --------
    >>> from skode.datasets import load_tumour_growth
    >>> tumours = load_tumour_growth()
    >>> tumours.frame.shape
    (397, 6)
    >>> X, y = load_tumour_growth(return_X_y=True)
    >>> X.columns.tolist(), y.name
    (['mouse', 'day', 'dose'], 'volume')
    >>> int(X["mouse"].nunique())
    30

    """
    file_name = "tumour_growth.csv"
    frame = read_packaged_csv(file_name)
    dataset = make_bunch(frame, file_name, features=["mouse", "day", "dose"], target="volume")
    return (dataset.data, dataset.target) if return_X_y else dataset
