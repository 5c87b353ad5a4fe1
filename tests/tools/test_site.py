"""The documents as a site: built strictly, nothing loaded from elsewhere; links right also on a forge; few words."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tools import site

ROOT = Path(__file__).parents[2]
README, DOCS = ROOT / "README.md", sorted((ROOT / "docs").rglob("*.md"))
README_WORDS, DOCS_WORDS = 1200, 20_000
_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")
# What a page fetches by itself when it is opened: not the links that a reader follows.
_LOADS = re.compile(r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=[\"']?((?:https?:)?//[^\"'\s>]+)"
                    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|prefetch|icon))"
                    r"[^>]*\bhref=[\"']?((?:https?:)?//[^\"'\s>]+)|(?:url\(|@import )[\"']?((?:https?:)?//[^\"')\s]+)")


def words(text: str) -> int:
    return len(text.split())


def anchors(text: str) -> set[str]:
    """The anchors that a forge gives headings."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", plain, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_readme_and_docs_keep_to_their_words():
    assert words(README.read_text(encoding="utf-8")) <= README_WORDS
    assert sum(words(path.read_text(encoding="utf-8")) for path in DOCS) <= DOCS_WORDS


@pytest.mark.parametrize("path", [README, ROOT / "CONTRIBUTING.md", *DOCS], ids=lambda path: path.name)
def test_links_lead_somewhere_on_a_forge(path):
    code = r"^```.*?^```|^ {4}[^\n]*$"
    text = re.sub(code, "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for address, anchor in _LINK.findall(text):
        if not re.match(r"[a-z]+:", address):
            found = path.parent / address if address else path
            assert found.exists(), f"{path.name}: {address}"
            if anchor and found.suffix == ".md":
                assert anchor in anchors(found.read_text(encoding="utf-8")), f"{path.name}: {address}#{anchor}"


@pytest.mark.parametrize(("page", "text", "moved"), [
    ("index.md", "[a](docs/c.md#x) ![p](docs/road.svg)", "[a](c.md#x) ![p](road.svg)"),
    ("index.md", "[l](LICENSE) [c](CONTRIBUTING.md)", "l [c](contributing.md)"),
    ("index.md", "[`a [b]`](docs/how-to/audio.md)", "[`a [b]`](how-to/audio.md)"),
    ("index.md", "`[a](docs/c.md)`", "`[a](docs/c.md)`"),
    ("index.md", "```\n[a](docs/c.md)\n```\n[b](docs/c.md)", "```\n[a](docs/c.md)\n```\n[b](c.md)"),
    ("index.md", "[w](https://x.org/docs/a) [s](#below)", "[w](https://x.org/docs/a) [s](#below)"),
    ("index.md", "    T[i](x_n)\n[b](docs/c.md)", "    T[i](x_n)\n[b](c.md)"),
    ("c.md", "[a](../CONTRIBUTING.md) [r](../README.md#install)", "[a](contributing.md) [r](index.md#install)"),
    ("how-to/audio.md", "[a](../c.md) [b](../../README.md)", "[a](../c.md) [b](../index.md)"),
    ("how-to/audio.md", "[a](recipes.md) [code](../../tools/site.py)", "[a](recipes.md) code"),
])
def test_links_are_moved_to_where_pages_are(page, text, moved):
    assert site.in_site(text, page) == moved


def test_what_a_page_would_load_is_seen():
    for text in ('<script async src="https://a.example/x.js">', "<link rel=stylesheet href=//a.example/x.css>",
                 "@import 'https://a.example/x.css'", "a{background:url(//a.example/x.png)}",
                 '<img src="https://a.b/c">'):
        assert _LOADS.search(text), text
    for text in ('<a href="https://a.example">', '<script src="assets/x.js">', '<link rel="next" href="c.html">'):
        assert not _LOADS.search(text), text


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("material") or not find_spec("mkdocstrings"), reason="the extra `docs` is missing")
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path.read_text(encoding="utf-8")
             for path in (tmp_path / "site").rglob("*") if path.suffix in (".html", ".css", ".svg")}
    for name, text in pages.items():
        assert not (found := _LOADS.search(text)), f"{name} loads {found and found[0]}"
    wanted = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in DOCS}
    assert wanted | {"index.html", "contributing.html", "changelog.html", "road.svg"} <= set(pages)
    assert "compile_model" in pages["python.html"] and "evaluation" in pages["python.html"]
    assert ('src="road.svg"' in (home := pages["index.html"])) and "docs/" not in re.sub(r"<code>.*?</code>", "", home)
