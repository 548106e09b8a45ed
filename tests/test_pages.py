"""The Python of every page under docs/ runs, block after block, as a reader would type it.

A block of ``text`` right below a block of ``python`` is what that prints, to the character: pages don't show so what
depends on training. Code of other libraries stands in a ``{code-block} python``, and is not run.
"""

import contextlib
import io
import re
import textwrap
import warnings
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest
from sklearn.exceptions import ConvergenceWarning

DOCS = Path(__file__).parent.parent / "docs"
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\S*)[^\n]*\n(?P<body>.*?)^(?P=indent)```$", flags=re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    code: str
    line: int
    printed: str | None


def blocks(text):
    """The Python blocks of a page, each with its first line's number and what is said to be printed."""
    fences = list(FENCE.finditer(text))
    found = []
    for fence, below in zip_longest(fences, fences[1:]):
        if fence["kind"] != "python":
            continue
        follows = below and below["kind"] == "text" and not text[fence.end() : below.start()].strip()
        printed = textwrap.dedent(below["body"]) if follows else None
        found.append(Block(textwrap.dedent(fence["body"]), text.count("\n", 0, fence.start("body")), printed))
    return found


def run(page_blocks, file):
    """Run blocks in one namespace; pairs of what they printed and what is said of it."""
    namespace, pairs = {"__name__": "__main__"}, []
    for block in page_blocks:
        printed = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore", ConvergenceWarning)  # pages stop early to be quick
            # Blank lines above, so that a traceback names the line of the page.
            exec(compile("\n" * block.line + block.code, file, "exec"), namespace)
        if block.printed is not None:
            pairs.append((printed.getvalue(), block.printed))
    return pairs


PAGES = {
    path.relative_to(DOCS).as_posix(): path
    for path in sorted(DOCS.rglob("*.md"))
    if "_build" not in path.parts and blocks(path.read_text())
}


#: Libraries that pages are about.
NEEDED = {"guide/dask.md": ("dask.array", "dask.dataframe")}


@pytest.mark.parametrize("page", PAGES)
def test_page_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    for library in NEEDED.get(page, ()):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    try:
        pairs = run(blocks(PAGES[page].read_text()), str(PAGES[page]))
    finally:
        pyplot.close("all")
    for printed, shown in pairs:
        assert printed == shown


def test_there_are_pages():
    assert {"index.md", "cross_validation.md"} <= PAGES.keys()


PAGE = """
```python
x = 2
print(x)
```

```text
2
```

1. In a list:

   ```python
   print(x + 1)
   ```

```{code-block} python
import a_library_that_is_not_here
```

```text
nobody's output
```
"""


def test_blocks_share_a_namespace_and_others_are_left_alone():
    first, second = blocks(PAGE)
    assert first == Block("x = 2\nprint(x)\n", 2, "2\n")
    assert second == Block("print(x + 1)\n", 13, None)
    assert run([first, second], "page") == [("2\n", "2\n")]


def test_an_error_names_the_line_of_the_page():
    with pytest.raises(ZeroDivisionError) as error:
        run(blocks("a line\n\n```python\nx = 1\nx / 0\n```\n"), "page.md")
    assert (str(error.traceback[-1].path), error.traceback[-1].lineno + 1) == ("page.md", 5)


def test_other_warnings_are_errors():
    with pytest.raises(UserWarning, match="careful"):
        run([Block("import warnings\nwarnings.warn('careful')\n", 0, None)], "page")
