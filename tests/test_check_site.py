"""docs/check_site.py finds what is broken in a built site, and nothing in one that is whole."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "check_site.py"
CHROMIUM = shutil.which("chromium")
#: The smallest picture there is: one pixel, as GIF.
PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b")


def page(body, title="A page"):
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>A page</h1>{body}</body></html>"


@pytest.fixture
def site(tmp_path):
    """Two pages and a picture."""
    (tmp_path / "guide").mkdir()
    (tmp_path / "pixel.gif").write_bytes(PIXEL)
    (tmp_path / "index.html").write_text(
        page('<a href="guide/a.html#there">a</a> <a href="https://example.org">b</a> <img src="pixel.gif">')
    )
    (tmp_path / "guide" / "a.html").write_text(
        page('<p id="there"><a href="#there">c</a> <a href="../index.html">d</a> <img src="../pixel.gif?version=1">')
    )
    return tmp_path


def check(site, *options):
    """Whether a site passed, the faults that were printed, and the count below them."""
    command = [sys.executable, str(SCRIPT), str(site), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not done.stderr
    *faults, count = done.stdout.splitlines()
    assert done.returncode == bool(faults)
    return faults, count


def test_nothing_is_found_in_a_whole_site(site):
    assert check(site) == ([], "2 pages, 4 links, 2 pictures: 0 faults")


def test_each_broken_thing_is_found(site):
    body = '<a href="guide/b.html">1</a> <a href="guide/a.html#here">2</a> <img src="none.png"> <img src="empty.png">'
    (site / "broken.html").write_text(page(body, title=" "))
    (site / "empty.png").touch()
    faults, count = check(site)
    assert faults == [
        "broken.html: no title",
        "broken.html: broken link guide/b.html",
        "broken.html: missing anchor guide/a.html#here",
        "broken.html: missing file none.png",
        "broken.html: empty file empty.png",
    ]
    assert count == "3 pages, 6 links, 4 pictures: 5 faults"


def test_pages_need_no_other_host(site):
    (site / "far.html").write_text(page('<script src="https://example.org/a.js"></script>'))
    assert check(site)[0] == ["far.html: needs another host for https://example.org/a.js"]


def test_an_empty_folder_is_no_site(tmp_path):
    assert check(tmp_path)[0] == [f"{tmp_path}: no pages"]


def test_every_script_has_its_page_and_pictures(site, tmp_path):
    examples, gallery, images = tmp_path / "examples", site / "gallery", site / "_images"
    for folder in (examples, gallery, images):
        folder.mkdir()
    for name in ("plot_whole", "plot_without", "long", "lost"):
        (examples / f"{name}.py").touch()
    for name in ("plot_whole_thumb", "plot_whole_001", "plot_without_thumb", "long_thumb"):
        (images / f"sphx_glr_{name}.png").write_bytes(PIXEL)
    thumbnails = ("plot_whole", "plot_without", "long")
    (gallery / "index.html").write_text(
        page("".join(f'<img src="../_images/sphx_glr_{name}_thumb.png">' for name in thumbnails))
    )
    (gallery / "plot_whole.html").write_text(page('<img src="../_images/sphx_glr_plot_whole_001.png">'))
    for name in ("plot_without", "long"):
        (gallery / f"{name}.html").write_text(page(""))
    assert check(site, "--examples", examples)[0] == [
        "gallery/index.html: no thumbnail of lost.py",
        "gallery/lost.html: missing page",
        "gallery/plot_without.html: no picture",
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_finds_what_only_it_can_see(site):
    whole, count = check(site, "--browser", CHROMIUM)
    assert not whole
    assert count == f"2 pages (each opened in {CHROMIUM}), 4 links, 2 pictures: 0 faults"
    (site / "pixel.gif").write_bytes(b"no picture")
    script = "document.title = 'Another'; fetch('none.json'); console.error('Oh'); unknown()"
    (site / "script.html").write_text(page(f"<script>{script}</script>"))
    faults, _ = check(site, "--browser", CHROMIUM)
    assert sorted(faults) == [
        "guide/a.html: not drawn: pixel.gif?version=1",
        "index.html: not drawn: pixel.gif",
        "script.html: answer 404: none.json",
        "script.html: console: ['Oh']",
        "script.html: its title is 'Another'",
        "script.html: script failed: ReferenceError: unknown is not defined",
    ]
