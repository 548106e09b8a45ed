"""Open the built site: every internal link and picture is there, and every page is drawn without a fault.

Run ``python docs/check_site.py SITE`` after ``sphinx-build -b html docs SITE``. With ``--examples examples``, every
script there has its page and picture in the gallery; with ``--browser chromium``, every page is opened in headless
Chromium too. Prints a line for each fault and a count of what was checked, and ends with 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parent))

#: Attributes by which a page needs another file; what "href" of an <a> names is only led to.
NEEDS = {"img": "src", "script": "src", "source": "src", "video": "src", "iframe": "src", "link": "href"}
#: Relations of a <link> that only lead elsewhere.
LEADS_TO = {"next", "prev", "index", "search", "canonical", "up", "author", "genindex"}


class Page(HTMLParser):
    """What a page has to name (anchors), leads to (links), and needs to be drawn (pictures and other files)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.title = ""
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.files: list[str] = []
        self._in_title = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element's names, and what it leads to or needs."""
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[key] for key in ("id", "name") if named.get(key)}
        self._in_title |= tag == "title" and not self.title
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        elif tag in NEEDS and NEEDS[tag] in named:
            leads = tag == "link" and set(named.get("rel", "").split()) & LEADS_TO
            into = self.links if leads else self.pictures if tag == "img" else self.files
            into.append(named[NEEDS[tag]])

    def handle_endtag(self, tag: str) -> None:
        """The title ends."""
        self._in_title &= tag != "title"

    def handle_data(self, data: str) -> None:
        """Text of the title."""
        if self._in_title:
            self.title += data


class Site:
    """All pages under a folder, but for those that sphinx's themes bring among their files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = (path for path in sorted(root.rglob("*.html")) if "_static" not in path.relative_to(root).parts)
        self.pages = {path.resolve(): Page(path) for path in paths}

    def faults(self) -> Iterator[str]:
        """A line for each fault."""
        if not self.pages:
            yield f"{self.root}: no pages"
        for page in self.pages.values():
            if not page.title.strip():
                yield f"{self.name(page)}: no title"
            for link in page.links:
                yield from self.faults_of_link(page, link)
            for needed in (*page.pictures, *page.files):
                yield from self.faults_of_file(page, needed)

    def name(self, page: Page) -> str:
        return page.path.relative_to(self.root).as_posix()

    def faults_of_link(self, page: Page, link: str) -> Iterator[str]:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            return
        target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path.resolve()
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            yield f"{self.name(page)}: broken link {link}"
        elif parts.fragment and target in self.pages:
            fragment = unquote(parts.fragment)
            if fragment not in self.pages[target].anchors:
                yield f"{self.name(page)}: missing anchor {link}"

    def faults_of_file(self, page: Page, needed: str) -> Iterator[str]:
        parts = urlsplit(needed)
        if parts.scheme == "data":
            return
        if parts.scheme or parts.netloc:
            yield f"{self.name(page)}: needs another host for {needed}"
            return
        path = page.path.parent / unquote(parts.path)
        if not path.is_file():
            yield f"{self.name(page)}: missing file {needed}"
        elif not path.stat().st_size:
            yield f"{self.name(page)}: empty file {needed}"


def gallery_faults(site: Site, examples: Path) -> Iterator[str]:
    """Every script has its page and thumbnail; and one that the gallery runs, ``plot_*.py``, a picture of its own."""
    index = site.pages.get((site.root / "gallery" / "index.html").resolve())
    shown = {Path(picture).name for picture in index.pictures} if index else set()
    for script in sorted(examples.glob("*.py")):
        thumbnail = f"sphx_glr_{script.stem}_thumb"
        if not any(Path(name).stem == thumbnail for name in shown):
            yield f"gallery/index.html: no thumbnail of {script.name}"
        page = site.pages.get((site.root / "gallery" / f"{script.stem}.html").resolve())
        if page is None:
            yield f"gallery/{script.stem}.html: missing page"
        elif script.stem.startswith("plot_"):
            figures = [name for name in page.pictures if Path(name).stem.startswith(f"sphx_glr_{script.stem}_0")]
            if not figures:
                yield f"gallery/{script.stem}.html: no picture"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="the folder of built pages")
    parser.add_argument("--examples", type=Path, help="scripts that the gallery has to show")
    parser.add_argument("--browser", metavar="COMMAND", help="Chromium's command, to open every page in it")
    options = parser.parse_args()

    site = Site(options.site)
    faults = list(dict.fromkeys(site.faults()))
    if options.examples:
        faults += gallery_faults(site, options.examples)
    if options.browser:
        from _browser import rendering_faults

        faults += rendering_faults(
            options.browser, site.root, {site.name(page): page.title for page in site.pages.values()}
        )
    for fault in faults:
        print(fault)
    n_links = sum(len(page.links) for page in site.pages.values())
    n_pictures = sum(len(page.pictures) for page in site.pages.values())
    opened = f" (each opened in {options.browser})" if options.browser else ""
    print(f"{len(site.pages)} pages{opened}, {n_links} links, {n_pictures} pictures: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
