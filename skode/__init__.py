"""Neural ordinary differential equations for scikit-learn users."""

from skode.classification import ODENetClassifier

__version__ = "0.1.0"

__all__ = ["ODENetClassifier"]
