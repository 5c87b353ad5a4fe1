"""The user's own Python files: imported for `--arch`, next to ours and without either hiding the other.

Our packages have names that training scripts use as well (`pipeline`, `compile`). Python keeps one module for a name,
so where the user's code has a module of such a name, both sets are kept, and each import gets the set of the file that
it stands in, at whatever time it runs.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import InputError, first_line, nearest_spelling

OUR_ROOT = Path(__file__).resolve().parent.parent
# What lies at the top of our own folder. A user's modules of other names meet nothing of ours.
OUR_NAMES = ("pipeline", "passes", "calib", "backends", "compile", "tools", "tests", "docs", "recipes")
MAIN = "__main__"
# Code of nobody's: it means the modules that stand while it runs.
_INSTALLED = ("site-packages", "dist-packages", sysconfig.get_path("stdlib"))
_IMPORTERS = ("<frozen importlib", str(Path(importlib.__file__).parent))


@dataclass
class _Neighbours:
    """The modules of one folder whose names are ours as well.

    Args:
        folder: of the user's file.
        specs: how each is imported, by its name.
        loaded: those that were imported, parts of packages included.
    """

    folder: Path
    specs: dict[str, importlib.machinery.ModuleSpec]
    loaded: dict[str, ModuleType] = field(default_factory=dict)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The protocol of `sys.meta_path`, for the names at the top; their parts are found as usual."""
        return self.specs.get(name)

    def owns(self, name: str) -> bool:
        """Whether a module of this full name belongs to one of the names at the top."""
        return name.partition(".")[0] in self.specs


_folders: dict[Path, _Neighbours] = {}
_active: _Neighbours | None = None  # whose modules stand in sys.modules; None: ours
_lock = threading.RLock()


def factory_in_file(path: Path, name: str) -> Callable[..., Any]:
    """What `path/to/file.py:name` names; raises InputError with the cause and the line."""
    where = arch_option(f"{path}:{name}")
    if not name:
        raise InputError(
            f"'{path}' is a file, and what in it builds the network is not said", where=arch_option(str(path)),
            allowed=f"{path}:factory",
        )
    return _attribute(module_of_file(path, where), name, where)


def module_of_file(path: Path, where: str = "") -> ModuleType:
    """The module of a Python file, imported anew; raises InputError with the cause and the line."""
    where = where or arch_option(str(path))
    if not path.is_file():
        raise InputError(f"there is no file '{path}'", where=where, hint=f"Paths start at {Path.cwd()}.")
    # Registered, because dataclasses and pickled classes look their module up; prefixed, to hide nothing.
    spec = importlib.util.spec_from_file_location(f"_arch_{path.stem}", path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with importable(path.resolve().parent), cause_shown(where, f"'{path}' does not import"):
        spec.loader.exec_module(module)
    return module


def factory_in_package(source: str, name: str) -> Callable[..., Any]:
    """What `package.module:name` names; raises InputError with the cause and the line."""
    where = arch_option(f"{source}:{name}")
    with importable(Path.cwd()), cause_shown(where, f"'{source}' does not import"):
        module = importlib.import_module(source)
    return _attribute(module, name, where)


def arch_option(arch: str) -> str:
    """The option as it was typed, for errors."""
    return f"--arch {arch}"


def _attribute(module: Any, name: str, where: str) -> Callable[..., Any]:
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        what = f"'{name}' is not callable" if hasattr(module, name) else f"there is no '{name}' in it"
        raise InputError(what, where=where, hint=nearest_spelling(name, known))
    return factory


@contextlib.contextmanager
def cause_shown(where: str, what: str) -> Iterator[None]:
    """Turns whatever the user's code raises, `sys.exit` included, into an InputError that shows the line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        # Our own import function may stand last where imports are watched.
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "at an import"
        raise InputError(f"{what}: {first_line(error)}", where=f"{where} ({place})") from error


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Lets the user's code import its neighbours; behind everything else, so that it hides no installed package."""
    before = list(sys.path)
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        with _standing(_neighbours(folder.resolve())):
            yield
    finally:
        sys.path[:] = before


class _LateImports:
    """Finds neighbours that the user's functions import when they are called, after `sys.path` is as it was."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The protocol of `sys.meta_path`; asked last, so that it hides no installed package."""
        if path is not None:
            return None
        file = next((file for file in _files_above() if not file.startswith(_IMPORTERS)), "")
        folder = next((folder for folder in _folders if file and Path(file).resolve().is_relative_to(folder)), None)
        return None if folder is None else importlib.machinery.PathFinder.find_spec(name, [str(folder)])


def _files_above() -> Iterator[str]:
    """The files of the running functions, the innermost first, without this one."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__:
            yield file
        frame = frame.f_back


@contextlib.contextmanager
def standing_for_main(module: ModuleType) -> Iterator[None]:
    """Lets pickles find in `module` what a script kept in `__main__` when it was run."""
    before = sys.modules[MAIN]
    sys.modules[MAIN] = module
    try:
        yield
    finally:
        sys.modules[MAIN] = before


# --- two modules of one name ---


def _neighbours(folder: Path) -> _Neighbours | None:
    """The modules that code in `folder` means by names of ours, or None where they are ours or none are there."""
    if _LateImports not in sys.meta_path:
        sys.meta_path.append(_LateImports)
    if any(folder.is_relative_to(OUR_ROOT / name) for name in OUR_NAMES):  # our own tests, beside folders of our names
        return None
    if folder not in _folders or not _folders[folder].specs:
        path = [str(folder), *(entry for entry in sys.path if Path(entry or ".").resolve() != OUR_ROOT)]
        found = {name: importlib.machinery.PathFinder.find_spec(name, path) for name in OUR_NAMES}
        _folders[folder] = _Neighbours(folder, {n: spec for n, spec in found.items() if spec and not _is_ours(spec)})
    if not _folders[folder].specs:
        return None
    _watch_imports()
    return _folders[folder]


def _is_ours(spec: importlib.machinery.ModuleSpec) -> bool:
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return any(Path(place).resolve().is_relative_to(OUR_ROOT / spec.name) for place in places) or (
        bool(spec.origin) and Path(spec.origin).resolve() == OUR_ROOT / f"{spec.name}.py"
    )


@contextlib.contextmanager
def _standing(neighbours: _Neighbours | None) -> Iterator[None]:
    """Puts one set of modules into `sys.modules` and takes the other out; None stands for ours."""
    global _active
    with _lock:
        before = _active
        if before is neighbours:
            yield
            return
        _exchange(before, neighbours)
        try:
            yield
        finally:
            _exchange(neighbours, before)


_ours: dict[str, ModuleType] = {}


def _exchange(leaving: _Neighbours | None, coming: _Neighbours | None) -> None:
    global _active
    for owner in (leaving, coming):
        if owner is None:
            continue
        names = [name for name in sys.modules if owner.owns(name)]
        kept = owner.loaded if owner is leaving else _ours
        kept.clear()
        kept.update((name, sys.modules.pop(name)) for name in names)
        sys.modules.update(_ours if owner is leaving else owner.loaded)
        if owner is leaving:
            sys.meta_path.remove(owner)
        else:
            sys.meta_path.insert(0, owner)
    _active = coming


def _watch_imports() -> None:
    """From now on every import looks at the file that it stands in; only where two modules have one name."""
    if getattr(builtins.__import__, "_looks_at_the_file", False):
        return
    plain_import, plain_import_module = builtins.__import__, importlib.import_module

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        # Relative imports start in the package of their file, whose own name may be one of ours.
        if not _is_shared(name if level == 0 else str((globals or {}).get("__package__"))):
            return plain_import(name, globals, locals, fromlist, level)
        with _standing(_meant_by(globals)):
            return plain_import(name, globals, locals, fromlist, level)

    def import_module(name: str, package: str | None = None) -> ModuleType:
        if not _is_shared(package or name if name.startswith(".") else name):
            return plain_import_module(name, package)
        with _standing(_meant_by(sys._getframe(1).f_globals)):
            return plain_import_module(name, package)

    import_._looks_at_the_file = True
    builtins.__import__, importlib.import_module = import_, import_module


def _is_shared(name: str) -> bool:
    return any(neighbours.owns(name) for neighbours in _folders.values())


def _meant_by(variables: Any) -> _Neighbours | None:
    """Whose modules the code with these global variables means."""
    file = (variables or {}).get("__file__")
    if not file or any(part in str(file) for part in _INSTALLED):
        return _active
    path = Path(file).resolve()
    # The innermost folder: the user's may lie in ours, and ours in the user's.
    owners = [(folder, neighbours) for folder, neighbours in _folders.items() if path.is_relative_to(folder)]
    if path.is_relative_to(OUR_ROOT):
        owners.append((OUR_ROOT, None))
    if not owners:  # code of the user's that lies elsewhere
        return _active or next((each for each in reversed(_folders.values()) if each.specs), None)
    neighbours = max(owners, key=lambda owner: len(owner[0].parts))[1]
    return neighbours if neighbours is not None and neighbours.specs else None
