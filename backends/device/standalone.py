"""One file out of a script and the modules of ours that it imports: what is shipped must run without this checkout.

Shared code is written once and stands in every script that uses it. A module that is to be shipped keeps its imports
at the top and imports names only (`from backends.x import a, b`).
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isobit.pipeline.artifact.digest import PREDICTOR
from isobit.pipeline.errors import ExitCode

_OURS = "isobit."
_ALONE = """import os
import sys

# A file beside this script that is called as a module is must not be read in its place, before anything is checked.
if __name__ == "__main__" and sys.path:
    if os.path.realpath(sys.path[0] or ".") == os.path.dirname(os.path.realpath(__file__)):
        del sys.path[0]"""
# A hook and no `try`, as it is in force while the imports below it are made.
_STOPPED = f"""def on_error(kind, error, trace):
    \"\"\"Ctrl-C ends the script with one line.\"\"\"
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("interrupted: stopped before the end", file=sys.stderr)
    sys.exit({int(ExitCode.INTERRUPTED)})


if __name__ == "__main__":
    sys.excepthook = on_error"""
_ROOT = Path(__file__).parents[2]  # installed, the folder of the package


@dataclass(frozen=True)
class _Part:
    """A module taken apart: docstring, imports of others, paths of ours that it imports, code, what a script starts."""

    docstring: str
    imports: tuple[str, ...]
    ours: tuple[Path, ...]
    body: str
    start: str


def standalone(path: Path, last_word: str = "FAIL") -> str:
    """Source of the script at `path` with every module of ours before its own code.

    The docstring is the script's; imports are gathered at the top, each once, and none is taken from the script's own
    folder. Without a package that it needs, the script says so and ends with 1; stopped by Ctrl-C, with 130.

    Args:
        last_word: what it prints last where a package is missing.

    Raises:
        ValueError: two modules define one name; the later would stand for both.
    """
    parts = _with_dependencies(path)
    defined = Counter(name for part in parts.values() for name in _defined(part.body))
    if twice := sorted(name for name, count in defined.items() if count > 1):
        raise ValueError(f"{', '.join(twice)}: defined by two modules of the script {path.name}")
    lines = {line for part in parts.values() for line in part.imports} - {"from __future__ import annotations"}
    lines -= {"import os", "import sys"}  # both are there before a script begins
    standard = sorted(line for line in lines if line.split()[1].split(".")[0] in sys.stdlib_module_names)
    others = sorted(lines - set(standard))
    head = [parts[path].docstring, "from __future__ import annotations", _ALONE, _STOPPED,
            "\n".join(standard), _guarded(others, last_word) if others else ""]
    bodies = "\n\n\n".join(part.body for part in parts.values())
    return "\n\n".join(text for text in head if text) + "\n\n" + bodies + "\n" + parts[path].start


def write_predictor(folder: Path, script: Path) -> None:
    """Write `predict.py` into the artifact's folder: the `script` of a target that runs its model there."""
    (folder / PREDICTOR).write_text(standalone(script, last_word=""), encoding="utf-8")


def _guarded(imports: Sequence[str], last_word: str) -> str:
    """Imports of packages that a device may lack."""
    lines = ["try:", *(f"    {line}" for line in imports), "except ImportError as missing:",
             "    print(str(missing) + \": this script needs it, see its first lines\")"]
    lines += [f'    print("{last_word}")'] if last_word else []
    return "\n".join([*lines, "    sys.exit(1)"])


def _with_dependencies(path: Path) -> dict[Path, _Part]:
    """The script and what it imports of ours, each after what it needs."""
    part, found = _take_apart(path), {}
    for other in part.ours:
        found.update({key: value for key, value in _with_dependencies(other).items() if key not in found})
    return {**found, path: part}


def _defined(body: str) -> set[str]:
    """Names that a module's own lines give a meaning, outside of functions and classes."""
    found: set[str] = set()
    for node in ast.parse(body).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        else:
            found |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and
                      isinstance(each.ctx, ast.Store)}
    return found


def _take_apart(path: Path) -> _Part:
    source = path.read_text(encoding="utf-8")
    module = ast.parse(source)
    imports = [node for node in module.body if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = [node for node in imports if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_OURS)]
    end = max(node.end_lineno or node.lineno for node in [module.body[0], *imports])
    last = module.body[-1]
    starts = isinstance(last, ast.If) and "__name__" in ast.unparse(last.test)  # of the script alone
    lines = source.splitlines()
    return _Part(
        docstring=ast.get_source_segment(source, module.body[0]) or "",
        imports=tuple(ast.unparse(node) for node in imports if node not in ours),
        ours=tuple(_ROOT / ((node.module or "").removeprefix(_OURS).replace(".", "/") + ".py") for node in ours),
        body="\n".join(lines[end:last.lineno - 1] if starts else lines[end:]).strip("\n"),
        start="\n\n" + "\n".join(lines[last.lineno - 1:]) + "\n" if starts else "",
    )
