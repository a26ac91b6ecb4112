"""Sphinx: the site of the documentation, built by `make docs` into docs/_build/html.

The source folder is the root of the repository, so that pages link to bundles, benchmarks and the changelog
as they do in the repository, where they are read as plain Markdown, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import crosswarp  # noqa: E402

project = "crosswarp"
author = "the crosswarp authors"
project_copyright = author
version = release = crosswarp.__version__

root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "docs/reference/_api/*.rst",
    "bundles/*/docs/README.md",
    "benchmarks/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
exclude_patterns = [
    ".*",
    "runs",
    "dist",
    "build",
    "scripts",
    "bundles/*/scripts",
    "docs/_build",
    "docs/reference/_api/modules.rst",  # these two only list the pages of the packages
    "docs/reference/_api/crosswarp.rst",
]

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "bundle_pages",
    "mathml",
]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # the anchors that links have on GitHub

apidoc_modules = [
    {
        "path": "../crosswarp",
        "destination": "docs/reference/_api",
        "exclude_patterns": [
            "**/__main__.py",
            "**/inference/registra*.py",
        ],  # the latter have a page of their own
        "max_depth": 2,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
]
autodoc_member_order = "bysource"
autodoc_default_options = {"ignore-module-all": True}  # a name is documented where it is defined
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
default_role = "code"
highlight_language = "text"

# References to our own names must lead somewhere; to check those of other libraries would need the network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!crosswarp\.).*"),
    ("py:.*", r".*\.(_\w+|[TP])"),  # private, variables
    ("py:.*", r"crosswarp\.(finite|results)\..*"),  # single modules beside the packages have no pages
]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"crosswarp {release}"
html_static_path = ["_static"]
html_css_files = ["crosswarp.css"]
templates_path = ["_templates"]
html_additional_pages = {"index": "redirect.html"}  # to docs/index.html
html_copy_source = False
pygments_dark_style = "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
