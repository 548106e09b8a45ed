"""Every message that docs/troubleshooting.md lists does occur: its own code provokes it, or the sources hold it."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

from skode.solvers import SolverError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SOURCES = "".join(path.read_text() for path in sorted((ROOT / "skode").rglob("*.py")))

#: Not provoked on the page, as that would take too long there.
NOT_PROVOKED = {
    "The dynamics of … draws of latent states could not be solved as far as the times of X",
    # Of several processes.
    "All processes of a fit have to fit the same",
    "Within together() all processes have to ask the same of the same model",
    "The parts of the data do not go together",
    "… ended or can't be reached any more",
    "the fit failed in rank …",
    "A solve failed in another process",
    "skode: rank … has waited for the other processes",
}


def sections():
    """Each heading of the page, and the code below it."""
    parts = re.split(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        yield heading, "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))


def message(heading):
    """The message that a heading quotes, where it does."""
    quoted = re.fullmatch(r"`(.+)`", heading)
    return quoted and quoted[1]


def pattern(quoted):
    """What the message looks like: … stands for anything."""
    return ".*".join(re.escape(part) for part in quoted.split("…"))


@pytest.fixture(scope="module")
def printed():
    """What the code below each heading prints; all of it runs in one namespace, in order."""
    namespace, outputs = {"__name__": "__main__"}, {}
    for heading, code in sections():
        out = io.StringIO()
        with contextlib.redirect_stdout(out), warnings.catch_warnings():
            exec(compile(code, f"docs/troubleshooting.md, {heading}", "exec"), namespace)
        outputs[heading] = out.getvalue()
    return outputs


MESSAGES = {message(heading): heading for heading, _ in sections() if message(heading)}


@pytest.mark.parametrize("quoted", sorted(MESSAGES.keys() - NOT_PROVOKED))
def test_the_code_below_a_message_provokes_it(quoted, printed):
    assert re.search(pattern(quoted), printed[MESSAGES[quoted]])


@pytest.mark.parametrize("quoted", sorted(NOT_PROVOKED))
def test_a_message_that_is_not_provoked_is_in_the_sources(quoted):
    texts = re.sub(r'"\s*\n\s*f?"', "", SOURCES)  # strings that go on in the next line
    assert re.search(pattern(quoted), texts)


def test_there_is_a_section_for_every_kind_of_failure_of_a_solve(printed):
    raised = set(re.findall(r"^(\w+Error): ", "\n".join(printed.values()), flags=re.MULTILINE))
    kinds = {kind.__name__ for kind in SolverError.__subclasses__() if kind.__module__.startswith("skode.solvers")}
    assert kinds <= raised


def test_no_message_is_listed_twice():
    headings = [heading for heading, _ in sections()]
    assert len(set(headings)) == len(headings)
