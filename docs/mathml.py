"""A Sphinx extension: equations as MathML, which browsers draw themselves, without scripts or network."""

from __future__ import annotations

from docutils.nodes import Element, SkipNode
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def inline(translator: HTML5Translator, node: Element) -> None:
    """Write an equation within a line."""
    translator.body.append(convert(node.astext()))
    raise SkipNode


def block(translator: HTML5Translator, node: Element) -> None:
    """Write an equation on lines of its own."""
    translator.body.append(f'<div class="equation">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
