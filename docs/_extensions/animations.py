"""Animations of the gallery as GIF: sphinx-gallery's own page of frames asks another host for its buttons."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.animation import Animation, PillowWriter
from sphinx_gallery.scrapers import figure_rst


def scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the animations that a script holds and that are not yet on its page."""
    shown = block_vars.setdefault("animations_shown", set())
    paths = []
    for value in block_vars["example_globals"].values():
        if isinstance(value, Animation) and id(value) not in shown:
            shown.add(id(value))
            path = f"{next(block_vars['image_path_iterator'])[: -len('.png')]}.gif"
            value.save(path, writer=PillowWriter(), dpi=80)
            plt.close(value._fig)  # the scraper of still pictures comes next
            paths.append(path)
    return figure_rst(paths, gallery_conf["src_dir"])
