"""Where the site is."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, metadata


@functools.cache
def documentation_site() -> str | None:
    """The address that the package's metadata have as ``Documentation`` (``[project.urls]``); None without one."""
    try:
        urls = metadata("skode").get_all("Project-URL") or []
    except PackageNotFoundError:  # a checkout that is not installed
        return None
    sites = [address.strip() for label, _, address in (url.partition(",") for url in urls) if label == "Documentation"]
    return sites[0].rstrip("/") if sites else None
