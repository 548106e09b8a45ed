"""Formulae as MathML, which browsers draw themselves: pages need neither a script nor another host.

docutils translates LaTeX to MathML. What it can't translate is a warning, and so ends a build with ``-W``.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)

#: What docutils knows by another name only, the double bar of a divergence, which would be stretched as that of a norm
#: is, and the thin space that is left out between a function and its argument.
REWRITES = {
    r"(?<!\\left)(?<!\\right)(?:\\,)?\\\|(?:\\,)?": r"\\parallel ",
    r"\\dots(?![a-zA-Z])": r"\\ldots",
    r"\\([bB]igg?)(?![a-zA-Z])": r"\\\1l",
    r"(\\(?:log|ln|exp|det|(?:operatorname|mathrm)\{\w{2,}\}))\s*(?=[a-zA-Z]|\\(?!left|[bB]ig|,|quad|qquad))": r"\1\\,",
}

#: What LaTeX sets otherwise than MathML does by itself: rows of aligned equations like displayed ones, and bars without
#: space around them.
MENDED = {
    '<mtable class="ams-align"': '<mtable class="ams-align" displaystyle="true"',
    '<mo stretchy="false">|': '<mo stretchy="false" lspace="0" rspace="0">|',
}


def translated(node: nodes.Element, as_block: bool) -> str:
    """The MathML of a formula; nothing where docutils can't tell."""
    source = node.astext()
    for name, known in REWRITES.items():
        source = re.sub(name, known, source)
    try:
        mathml = tex2mathml(source, as_block)
    except MathError as error:
        logger.warning("no MathML for %r: %s", source, error, location=node, type="mathml")
        return ""
    for by_itself, as_latex in MENDED.items():
        mathml = mathml.replace(by_itself, as_latex)
    return mathml


def visit_inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(translated(node, as_block=False))
    raise nodes.SkipNode


def visit_block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(writer.starttag(node, "div", CLASS="math"))
    if node["number"]:
        writer.body.append(f'<span class="eqno">({get_node_equation_number(writer, node)})')
        writer.add_permalink_ref(node, "Link to this equation")
        writer.body.append("</span>")
    writer.body.append(translated(node, as_block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
