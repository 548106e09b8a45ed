"""Docstrings that estimators inherit from scikit-learn refer to labels of its site: they become plain text here."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

WITH_TARGET = re.compile(r":(?:ref|term|doc):`([^`<]*?)\s*<[^`>]*>`")
WITHOUT = re.compile(r":(?:ref|term|doc):`([^`]*)`")


def plain(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace cross-references in the docstring of what a class has from scikit-learn."""
    origin = getattr(obj, "__module__", None) or getattr(getattr(obj, "fget", None), "__module__", "")
    if origin.startswith("sklearn."):
        text = "\n".join(lines)
        lines[:] = WITHOUT.sub(r"\1", WITH_TARGET.sub(r"\1", text)).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", plain, priority=100)  # before numpydoc reads it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
