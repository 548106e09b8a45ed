"""The version of the package, where all of its parts can see it."""

__version__ = "0.1.0"
