"""Reading a checkout's own source: its files, their syntax trees, what they import."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path


def sources(root: Path, *folders: str) -> list[Path]:
    """Python files below `folders`, sorted; without folders the whole checkout as git lists it."""
    if folders:
        return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    return [path for path in tracked(root) if path.suffix == ".py"]


def tracked(root: Path) -> list[Path]:
    """What is committed, or would be by `git add`: ignored files are somebody's own business."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(root / name for name in listing.stdout.split("\0") if name and (root / name).is_file())


def parse(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(module: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[int, str, ast.AST]]:
    """(line, dotted name, node) of every import at any depth; relative to `package`; import_module("...") too."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, node
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            for tail in [node.module] if node.module else [alias.name for alias in node.names]:
                yield node.lineno, ".".join([*above, tail]), node
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value, node


def is_type_checking(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:` in either spelling."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that execute when the module is imported: not function bodies, not type checking."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child):
            continue
        yield child
        yield from run_at_import(child)


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, comments or module docstring."""
    lines: set[int] = set()
    module = parse(path)
    for statement in module.body[1 if ast.get_docstring(module) else 0 :]:
        lines.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    text = path.read_text(encoding="utf-8").splitlines()
    return sum(1 for line in lines if text[line - 1].strip() and not text[line - 1].lstrip().startswith("#"))
