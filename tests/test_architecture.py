"""The rules of the house, read off the source: who imports whom, where runtimes may appear, what every file has.

Each rule is a function from a checkout to findings `file:line: what is wrong`; the checkout under test must have
none, and each rule is shown to find what it is for on a small tree that breaks it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from isobit import ROOMS
from tests.examples.source_tree import code_lines, imported, parse, run_at_import, sources, tracked

ROOT = Path(__file__).parents[1]
PACKAGES = ROOMS
# Which rooms may be imported from where; isobit/, tools/ and tests/ know everything, and nothing below knows them.
ALLOWED = {
    "pipeline": {"pipeline"},
    "passes": {"passes", "pipeline"},
    "calib": {"calib", "pipeline"},
    "backends": {"backends", "pipeline"},
}
OURS = {*PACKAGES, "isobit", "compile", "tools", "tests"}
# A runtime's packages, and the name with which the file or folder below backends/ begins that may import them.
RUNTIMES = {
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "onnxsim": "onnx",
    "tvm": "tvm",
    "tvm_ffi": "tvm",
}
# Folders side by side that import each other: the operators' rows read arguments of nodes, and a node's name and a
# graph's whitelist read the rows.
MUTUAL = {("pipeline/graph", "pipeline/operators")}
# The door: an ONNX file is read, simplified and run as its author made it.
READERS = {"onnx": "pipeline/model/onnx/"}
WRITERS = re.compile(r"isobit\.backends\.(?:regions|(?:onnx|c)(?!\.readback)|tvm(?!\.readback|\.profiles))\b")
INIT_LINES = 30
FILES, LINES, FUNCTION_LINES = 13, 400, 60
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:home|root|work|tmp|Users|mnt|media|private|var/folders)/[\w.*-]")


# --- the rules ----------------------------------------------------------------------------------------------------


def wrong_direction(root: Path) -> Iterator[str]:
    """pipeline <- passes, calib, backends <- isobit; the three siblings never import each other."""
    for package, allowed in ALLOWED.items():
        for path in sources(root, package):
            for line, name, node in imported(parse(path), ("isobit", *path.relative_to(root).parent.parts)):
                for room in rooms(name, node):
                    if room in OURS - allowed:
                        rule = f"{package}/ may import only {sorted(allowed)}, not {room}"
                        yield f"{path.relative_to(root)}:{line}: {rule}"


def mutual_imports(root: Path) -> Iterator[str]:
    """Two folders, neither within the other, import in one direction: else they are one folder in two."""
    places: dict[tuple[str, str], str] = {}
    for path in sources(root, *PACKAGES, "isobit", "tools"):
        folder = path.parent.relative_to(root)
        for line, name, node in imported(parse(path), ("isobit", *folder.parts)):
            other = folder_of(root, name, node)
            if other is not None and not other.is_relative_to(folder) and not folder.is_relative_to(other):
                pair = (folder.as_posix(), other.as_posix())
                places.setdefault(pair, f"{path.relative_to(root)}:{line}")
    for (folder, other), place in places.items():
        if folder < other and (other, folder) in places and (folder, other) not in MUTUAL:
            yield f"{place}: {folder} imports {other}, which imports it at {places[other, folder]}"


def folder_of(root: Path, name: str, node: ast.AST) -> Path | None:
    """The folder of the file that an import reads, relative to the checkout; None where it is none of ours."""
    parts = name.split(".")
    parts = parts[1:] if parts[0] == "isobit" and len(parts) > 1 and parts[1] in PACKAGES else parts
    path = Path(*parts)
    if (root / path).is_dir():
        return path if parts[0] in OURS and isinstance(node, ast.ImportFrom) else None
    return path.parent if (root / path.with_suffix(".py")).is_file() and len(parts) > 1 else None


def rooms(name: str, node: ast.AST) -> list[str]:
    """What an import reaches: `isobit.passes.freeze` and `from isobit import passes` reach passes."""
    parts = name.split(".")
    if parts[0] != "isobit":
        return parts[:1]
    if len(parts) == 1 and isinstance(node, ast.ImportFrom):
        return [alias.name if alias.name in PACKAGES else "isobit" for alias in node.names]
    return [parts[1] if len(parts) > 1 and parts[1] in PACKAGES else "isobit"]


def readers_that_know_writers(root: Path) -> Iterator[str]:
    """What reads a file back has no code of what writes it: a mistake there would be repeated here."""
    for path in sources(root, *(f"backends/{folder}readback" for folder in ("", "onnx/", "c/", "tvm/"))):
        for line, name, node in imported(parse(path), ("isobit", *path.relative_to(root).parent.parts)):
            whole = [f"{name}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else [name]
            for found in filter(WRITERS.match, whole):
                yield f"{path.relative_to(root)}:{line}: {found} writes what is read back here"


def outside_the_package(root: Path) -> Iterator[str]:
    """Our rooms are imported as parts of `isobit`: bare names belong to the user's own modules."""
    for path in sources(root):
        for line, name, _ in imported(parse(path), ("isobit", *path.relative_to(root).parent.parts)):
            if name.partition(".")[0] in PACKAGES:
                yield f"{path.relative_to(root)}:{line}: import isobit.{name}"


def runtime_outside_its_backend(root: Path) -> Iterator[str]:
    """`onnx*` only in backends/onnx* and the reader of such files, `tvm` only in backends/tvm*, and never at import."""
    for path in sources(root, "isobit", *PACKAGES):
        module, inside = parse(path), path.relative_to(root)
        at_import = set(run_at_import(module))
        for line, name, node in imported(module, inside.parent.parts):
            home = RUNTIMES.get(name.partition(".")[0])
            if home is None:
                continue
            if not inside.as_posix().startswith((f"backends/{home}", READERS.get(home, f"backends/{home}"))):
                yield f"{inside}:{line}: {name} may be imported only in backends/{home}* or by its reader"
            elif node in at_import:
                yield f"{inside}:{line}: import {name} inside the function that needs it; other machines may lack it"


def mirror_of(path: Path, root: Path) -> Path:
    """passes/freeze.py -> tests/passes/test_freeze.py; passes/__init__.py -> tests/passes/test_passes.py."""
    inside = path.relative_to(root)
    name = inside.parent.name if path.name == "__init__.py" else path.stem
    return Path("tests") / inside.parent / f"test_{name}.py"


def without_mirror(root: Path) -> Iterator[str]:
    """Every source file has its test file; an `__init__.py` only where it holds more than a few lines of code."""
    for path in sources(root, "isobit", *PACKAGES):
        if path.name == "__init__.py" and code_lines(path) <= INIT_LINES:
            continue
        if not (root / mirror_of(path, root)).is_file():
            yield f"{path.relative_to(root)}:1: no {mirror_of(path, root)}"


def without_docstring(root: Path) -> Iterator[str]:
    """Every module says in a paragraph what it is for."""
    for path in sources(root):
        if not ast.get_docstring(parse(path)):
            yield f"{path.relative_to(root)}:1: no module docstring"


def docstrings_that_say_no_thing(root: Path) -> Iterator[str]:
    """A docstring says first what a thing is or does; one that begins with "Of" leaves that to its name."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path in sources(root):
        for node in ast.walk(parse(path)):
            if isinstance(node, documented) and (ast.get_docstring(node) or "").startswith("Of "):
                yield f"{path.relative_to(root)}:{getattr(node, 'lineno', 1)}: a docstring begins with 'Of'"


def asserts(root: Path) -> Iterator[str]:
    """`python -O` removes asserts, and an AssertionError tells a user nothing: raise a CompileError."""
    for path in sources(root):
        if path.relative_to(root).parts[0] == "tests":
            continue
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Assert):
                yield f"{path.relative_to(root)}:{node.lineno}: assert outside tests/; raise a CompileError"


def machine_paths(root: Path) -> Iterator[str]:
    """Nothing that is committed names a folder of the machine on which it was written."""
    for path in tracked(root):
        content = path.read_bytes()
        if b"\0" in content:
            continue  # binary
        for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
            if found := MACHINE_PATH.search(line):
                yield f"{path.relative_to(root)}:{number}: absolute path of a machine: {found.group()}..."


def crowded_folders(root: Path) -> Iterator[str]:
    """A folder that nobody can take in at a glance wants to be several."""
    folders = Counter(path.parent for path in sources(root, "isobit", *PACKAGES, "tools") if path.name != "__init__.py")
    for folder, count in folders.items():
        if count > FILES:
            yield f"{folder.relative_to(root)}:1: {count} modules at one level, at most {FILES}"


def long_files(root: Path) -> Iterator[str]:
    """A file that nobody can hold in mind wants to be several."""
    for path in sources(root):
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > LINES:
            yield f"{path.relative_to(root)}:1: {count} lines, at most {LINES}"


def long_functions(root: Path) -> Iterator[str]:
    """A function that fills more than a screen hides its story."""
    for path in sources(root):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > FUNCTION_LINES:
                    place = f"{path.relative_to(root)}:{node.lineno}"
                    yield f"{place}: {node.name} has {count} lines, at most {FUNCTION_LINES}"


RULES = [
    wrong_direction, mutual_imports, readers_that_know_writers, outside_the_package, runtime_outside_its_backend,
    without_mirror, without_docstring, docstrings_that_say_no_thing, asserts, machine_paths, crowded_folders,
    long_files, long_functions,
]


@pytest.fixture
def checkout(tmp_path):
    """Writes files into a small git repository and returns its root."""

    def write(files: dict[str, str]) -> Path:
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_checkout_keeps_the_rule(rule):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the project is not known")
    findings = list(rule(ROOT))
    assert not findings, f"{rule.__doc__}\n" + "\n".join(findings)


def test_there_is_something_to_check():
    assert {path.relative_to(ROOT).parts[0] for path in sources(ROOT, *PACKAGES)} == set(PACKAGES)


def test_backends_import_without_any_runtime_installed():
    """The rule on imports sees only our own lines; this sees what they pull in."""
    names = [
        "isobit." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources(ROOT, "backends")
    ]
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(RUNTIMES)!r}))\n"  # None makes `import` raise ImportError
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- each rule finds what it is for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("pipeline/grid.py", "import torch\n\nfrom isobit.passes import freeze\n", 3),
        ("passes/fold.py", "def run():\n    import isobit.calib.observers\n", 2),
        ("calib/context.py", "from isobit import backends\n", 1),
        ("calib/methods/qdrop.py", "from ...passes import freeze\n", 1),
        ("calib/losses.py", "from .. import backends\n", 1),
        ("backends/base.py", "import importlib\nimportlib.import_module('isobit.calib.methods')\n", 2),
        ("backends/other.py", "from isobit.build import compile_model\n", 1),
        ("pipeline/data.py", "import tools.bench\n", 1),
    ],
)
def test_import_against_the_direction_is_found(checkout, file, text, line):
    root = checkout({file: text})
    assert [found.split(": ")[0] for found in wrong_direction(root)] == [f"{file}:{line}"]


def test_import_along_the_direction_is_not_a_finding(checkout):
    root = checkout(
        {
            "calib/context.py": "import torch\nfrom isobit.pipeline import quant\nfrom . import x\nfrom .a import b\n",
            "isobit/build.py": "from isobit import passes, calib, backends, pipeline\n",
            "tools/bench.py": "from isobit.build import compile_model\n",
        }
    )
    assert not list(wrong_direction(root))


def test_readers_that_know_writers_are_found(checkout):
    lines = ["from isobit.backends import regions, base", "from ..emit import x", "import isobit.backends.onnx.target"]
    fine = "from isobit.backends.onnx.readback import a\nfrom . import b\nfrom isobit.pipeline.shapes import c\n"
    root = checkout({"backends/onnx/readback/a.py": "\n".join(lines), "backends/readback/b.py": fine})
    found = [finding.split(": ")[0] for finding in readers_that_know_writers(root)]
    assert found == [f"backends/onnx/readback/a.py:{line}" for line in (1, 2, 3)]


def test_folders_that_import_each_other_are_found(checkout):
    files = {
        "calib/a/one.py": "from isobit.calib.b.two import x\n", "calib/b/two.py": "\nfrom ..a import one\n",
        "calib/b/inner/three.py": "from isobit.calib.b.two import x\n",
        "calib/b/four.py": "import isobit.calib.b.inner.three\n",
        "pipeline/graph/nodes.py": "from isobit.pipeline.operators.unary import x\n",
        "pipeline/operators/unary.py": "from isobit.pipeline.graph.nodes import y\n",
    }
    (found,) = mutual_imports(checkout(files))
    assert found == "calib/a/one.py:1: calib/a imports calib/b, which imports it at calib/b/two.py:2"


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("pipeline/parity.py", "def open_session():\n    import onnxruntime\n", 2),
        ("backends/onnx_files.py", '"""x"""\nimport onnx_ir as ir\n', 2),
        ("backends/onnx_files.py", "try:\n    import onnx\nexcept ImportError:\n    onnx = None\n", 2),
        ("backends/onnx_files.py", "class Session:\n    from onnxruntime import InferenceSession\n", 2),
        ("backends/onnx_files.py", "def f():\n    import tvm\n", 2),
        ("backends/tvm/kernels.py", "from tvm.script import tir\n", 1),
        ("isobit/shipping/ship.py", "def main():\n    import onnx.checker\n", 2),
    ],
)
def test_runtime_in_the_wrong_place_is_found(checkout, file, text, line):
    root = checkout({file: text})
    found = [finding.split(": ")[0] for finding in runtime_outside_its_backend(root)]
    assert found == [f"{file}:{line}"]


def test_runtime_inside_a_function_of_its_backend_is_not_a_finding(checkout):
    root = checkout(
        {
            "backends/onnx_files.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx\n"
            "def emit():\n    import onnx_ir\n",
            "backends/onnx/session.py": "class Session:\n    def run(self):\n        import onnxruntime\n",
            "backends/tvm/session.py": "def run():\n    from tvm import relax\n",
            "pipeline/model/onnx/file.py": "def read():\n    import onnx\n",
        }
    )
    assert not list(runtime_outside_its_backend(root))


def test_missing_mirror_is_found(checkout):
    code = "\n".join(f"a{i} = {i}" for i in range(INIT_LINES + 1))
    root = checkout(
        {
            "pipeline/grid.py": "", "tests/pipeline/test_grid.py": "", "pipeline/recipe.py": "", "isobit/ship.py": "",
            "backends/tvm/kernels.py": "", "calib/__init__.py": "a = 1\n", "passes/__init__.py": code,
        }
    )
    assert sorted(finding.split(": no ")[1] for finding in without_mirror(root)) == [
        "tests/backends/tvm/test_kernels.py",
        "tests/isobit/test_ship.py",
        "tests/passes/test_passes.py",
        "tests/pipeline/test_recipe.py",
    ]


def test_missing_docstring_and_stray_assert_are_found(checkout):
    root = checkout(
        {
            "pipeline/grid.py": "x = 1\nassert x\n",
            "tools/bench.py": '"""Said."""\ndef f(x):\n    assert x, "no"\n',
            "tests/test_grid.py": '"""Said."""\nassert True\n',
        }
    )
    assert list(without_docstring(root)) == ["pipeline/grid.py:1: no module docstring"]
    assert [finding.split(": ")[0] for finding in asserts(root)] == ["pipeline/grid.py:2", "tools/bench.py:3"]


def test_docstrings_that_begin_with_of_are_found(checkout):
    root = checkout({"passes/a.py": '"""Said."""\ndef f():\n    """Of a graph."""\n', "passes/b.py": '"""Of b."""\n'})
    found = [finding.split(": ")[0] for finding in docstrings_that_say_no_thing(root)]
    assert found == ["passes/a.py:2", "passes/b.py:1"]


def test_bare_names_of_our_rooms_are_found(checkout):
    root = checkout({"tools/a.py": "from pipeline import errors\n", "tests/b.py": "import isobit.pipeline\n"})
    assert [found.split(": ")[0] for found in outside_the_package(root)] == ["tools/a.py:1"]


def test_what_is_too_large_is_found(checkout):
    body = "\n".join("    x = 1" for _ in range(FUNCTION_LINES))
    files = {f"tools/f{i}.py": "" for i in range(FILES)}
    root = checkout(files | {"tools/long.py": f"def f():\n{body}\n" + "a = 1\n" * LINES, "passes/short.py": "a = 1\n"})
    found = [finding.split(": ")[0] for rule in (crowded_folders, long_files, long_functions) for finding in rule(root)]
    assert found == ["tools:1", "tools/long.py:1", "tools/long.py:1"]


def test_path_of_a_machine_is_found(checkout):
    for_somebody = "/home/" + "somebody/model.pth"
    root = checkout(
        {
            "tools/bench.py": f'"""Said."""\nPATH = "{for_somebody}"\n',
            "tools/other.py": '"""In ../shared/data, a/home/b, https://host/work/x and #!/usr/bin/env are none."""\n',
        }
    )
    assert [finding.split(": ")[0] for finding in machine_paths(root)] == ["tools/bench.py:2"]
