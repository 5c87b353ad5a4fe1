"""What the bytes of an artifact depend on, as hashes: files and folders, the project's own code, packages."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import isobit
from isobit import ROOMS

FOLDERS = ("isobit", *ROOMS)
ROOT = Path(isobit.__file__).resolve().parents[1]
# Start and watch builds, and read what came out; no artifact depends on them.
NOT_OF_BUILDS = ("isobit/sweep/", "isobit/cli/artifacts/sweep.py", "isobit/pages/sweep.py",
                 "isobit/pages/templates/sweep.")
MISSING, UNREADABLE = "missing", "unreadable"


@cache
def tree_sha256(path: Path) -> str:
    """Hash of a file, or of all files below a folder with their names; a word where there is none to read.

    A study whose model is not there is still a study: the cells of that model fail, and no others.
    """
    try:
        if not path.exists():
            return MISSING
        digest = hashlib.sha256()
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix()
            with file.open("rb") as stream:
                digest.update(name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()
    except (OSError, ValueError):
        return UNREADABLE


def sources_sha256(root: Path = ROOT, without: Sequence[str] = ()) -> str:
    """Hash of the project's Python sources, comments and docstrings left out.

    Args:
        root: a checkout, or the folder that the package is installed in.
        without: beginnings of paths that do not count.
    """
    digest = hashlib.sha256()
    for name, path in _files(root, without):
        if path.suffix != ".py":
            continue
        digest.update(name.encode() + meaning(path))
    return digest.hexdigest()


def meaning(path: Path) -> bytes:
    """The text of a file of Python without comments, docstrings and empty lines.

    Not its syntax tree: `ast.dump` and `ast.unparse` say the same code differently in different versions of Python.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            start, end = first.lineno - 1, first.end_lineno or first.lineno
            before, after = lines[start].encode()[:first.col_offset], lines[end - 1].encode()[first.end_col_offset:]
            if not before.strip() and not after.strip():  # else code stands on its lines, which counts
                lines[start:end] = [""] * (end - start)
    return "\n".join(line for line in map(str.rstrip, lines) if line).encode()


@cache
def build_sha256(root: Path = ROOT) -> str:
    """Hash of all code that a build runs through: the sources, kernels in C, templates of pages."""
    digest = hashlib.sha256(sources_sha256(root, NOT_OF_BUILDS).encode())
    for name, path in _files(root, NOT_OF_BUILDS):
        if path.suffix != ".py":
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()


@cache
def files_sha256(root: Path = ROOT) -> str:
    """Hash of the same files byte by byte, comments too: quick enough to be asked at the start of every cell."""
    digest = hashlib.sha256()
    for name, path in _files(root, NOT_OF_BUILDS):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(root: Path, without: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(name as in a checkout, path) of every file of the package, in the order of their names."""
    found = {}
    for folder in FOLDERS:
        for path in (root / folder).rglob("*.*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[_name(path.relative_to(root))] = path
    for name in sorted(found):
        if not name.as_posix().startswith(tuple(without)):
            yield name.as_posix(), found[name]


def _name(inside: Path) -> Path:
    """An installation has the rooms below `isobit`."""
    rooms_below = inside.parts[0] == "isobit" and inside.parts[1] in ROOMS
    return Path(*inside.parts[1:]) if rooms_below else inside
