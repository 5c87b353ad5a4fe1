"""Hooks of mkdocs.yml: README, CONTRIBUTING and CHANGELOG become pages of the site, and links lead to them.

The files are written for a forge, where they stand beside docs/. Here their links into docs/ lose that folder, and
links of docs/ to them lead to the pages. Links to other files of the checkout have no page: their text stays.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
HOME = {page: source for source, page in PAGES.items()}
# Fenced, indented, between backticks.
_CODE = re.compile(r"(^```.*?^```|^ {4}[^\n]*$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that stand outside of docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of the page as they are in the site."""
    return in_site(markdown, page.file.src_uri)


def in_site(text: str, page: str) -> str:
    """`text` with its links as the site needs them; code is left alone.

    Args:
        page: where the text stands in the site, from docs/ on.
    """
    parts = _CODE.split(text)
    return "".join(part if part.startswith(("`", "    ")) else _LINK.sub(lambda found: _moved(found, page), part)
                   for part in _joined(parts))


def _joined(parts: list[str]) -> list[str]:
    """Code inside a link's text belongs to the text around it: `[`a`](b)` stays one part."""
    joined: list[str] = []
    for part in parts:
        inside = bool(joined) and joined[-1].count("[") > joined[-1].count("]")
        text = bool(joined) and not part.startswith(("`", "    ")) and not joined[-1].startswith(("`", "    "))
        if text or (inside and not part.startswith("```")):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _moved(found: re.Match[str], page: str) -> str:
    picture, text, link = found[1], found[2], found[3]
    address, mark, anchor = link.partition("#")
    if not address or re.match(r"[a-z]+:", address):
        return found[0]
    folder = "" if page in HOME else posixpath.join("docs", posixpath.dirname(page))
    target = posixpath.normpath(posixpath.join(folder, address))
    if target in PAGES:
        moved = PAGES[target]
    elif target.startswith("docs/"):
        moved = target.removeprefix("docs/")
    else:
        return text
    return f"{picture}[{text}]({posixpath.relpath(moved, posixpath.dirname(page) or '.')}{mark}{anchor})"
