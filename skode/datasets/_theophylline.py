"""Concentrations of theophylline after one dose."""

import pandas as pd
from sklearn.utils import Bunch
from sklearn.utils._param_validation import validate_params

from skode.datasets._packaged import make_bunch, read_packaged_csv


@validate_params({"return_X_y": ["boolean"]}, prefer_skip_nested_validation=True)
def load_theophylline(*, return_X_y: bool = False) -> Bunch | tuple[pd.DataFrame, pd.Series]:
    """Load the concentrations of theophylline in the blood of twelve people after one dose.

    Each swallowed one dose of the drug, and blood was taken eleven times over the next 25 hours [1]_ [2]_. One row is
    one sample of blood. Known as ``Theoph`` from R.

    =================   =====================================
    Subjects            12
    Rows                132, 11 of each subject
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

        frame : DataFrame of shape (132, 5)
            Columns ``subject`` (1 to 12), ``weight`` (of the body, kg), ``dose`` (mg of theophylline per kg of the
            body), ``hour`` (hours since the dose) and ``concentration`` (of theophylline in the serum, mg/l). Ordered
            by subject and hour.
        data : DataFrame of shape (132, 3)
            The columns ``subject``, ``hour`` and ``dose``.
        target : Series of shape (132,)
            The column ``concentration``.
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
    ``dose`` is the same in every row of a subject. Concentrations at hour 0 are above 0 in three subjects, although
    they were measured before the drug could get into the blood.

    References
    ----------
    .. [1] Boeckmann, A. J., Sheiner, L. B. and Beal, S. L. (1994). NONMEM Users Guide: Part V. NONMEM Project Group,
       University of California, San Francisco.
    .. [2] Pinheiro, J. C. and Bates, D. M. (2000). Mixed-Effects Models in S and S-PLUS. Springer, appendix A.29.
       Values from the R package medicaldata, MIT, https://github.com/higgi13425/medicaldata.

    Examples
    --------
    >>> from skode.datasets import load_theophylline
    >>> X, y = load_theophylline(return_X_y=True)
    >>> X.columns.tolist(), y.name
    (['subject', 'hour', 'dose'], 'concentration')
    >>> int(X["subject"].nunique())
    12

    """
    file_name = "theophylline.csv"
    frame = read_packaged_csv(file_name)
    dataset = make_bunch(frame, file_name, features=["subject", "hour", "dose"], target="concentration")
    return (dataset.data, dataset.target) if return_X_y else dataset
