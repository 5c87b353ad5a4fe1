"""The user's own Python files: imported for `arch` from their folder, which hides no installed package.

Our modules are parts of `isobit`, so a network's own `pipeline`, `passes` or `compile` meets nothing of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from isobit.pipeline.errors import InputError, first_line, nearest_spelling

# The folder that holds our rooms: the checkout, or the installed package.
OUR_ROOT = next(folder.parent for folder in Path(__file__).resolve().parents if folder.name == "pipeline")
OUR_NAME = "isobit"
MAIN = "__main__"
_IMPORTERS = ("<frozen importlib", str(Path(importlib.__file__).parent))

_folders: list[Path] = []  # of users' files, in the order in which they were first used


def factory_in_file(path: Path, name: str) -> Callable[..., Any]:
    """What `path/to/file.py:name` names; raises InputError with the cause and the line."""
    where = arch_argument(f"{path}:{name}")
    if not name:
        raise InputError(
            f"'{path}' is a file, and what in it builds the network is not said", where=arch_argument(str(path)),
            field="arch", allowed=f"{path}:factory",
        )
    return _attribute(module_of_file(path, where), name, where)


def function_in_file(text: str, argument: str) -> Callable[..., Any]:
    """What an argument like `path/to/file.py:function` names; raises InputError with the cause and the line.

    Args:
        text: what was given.
        argument: what the library calls it: `calibration`, `decoder`.
    """
    path, _, name = text.rpartition(":")
    where = f"`{argument}={text}`"
    if not path.endswith(".py") or not name.isidentifier():
        raise InputError("this names no function in a file", where=where, allowed="path/to/file.py:function",
                         field=argument)
    return _attribute(module_of_file(Path(path), where, argument), name, where, argument)


def check_call(function: Callable[..., Any], given: tuple[Any, ...], where: str, field: str, form: str) -> None:
    """Refuse a user's function that cannot be called with as many arguments as are `given`.

    Args:
        form: how it is called, for the message.

    Raises:
        InputError: it cannot.
    """
    try:
        inspect.signature(function).bind(*given)
    except TypeError as error:
        raise InputError(f"the function cannot be called: {error}", where=where, field=field, allowed=form) from error
    except ValueError:  # what is not written in Python tells nothing
        return


def module_of_file(path: Path, where: str = "", field: str = "arch") -> ModuleType:
    """The module of a Python file, imported anew; raises InputError with the cause and the line."""
    where = where or arch_argument(str(path))
    if not path.is_file():
        raise InputError(f"there is no file '{path}'", where=where, field=field, hint=f"Paths start at {Path.cwd()}.")
    # Registered, because dataclasses and pickled classes look their module up; prefixed, to hide nothing.
    spec = importlib.util.spec_from_file_location(f"_arch_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(
            f"'{path}' is not a file of Python", where=where, field=field, allowed="a file whose name ends in .py"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with importable(path.resolve().parent), cause_shown(where, f"'{path}' does not import", field):
        spec.loader.exec_module(module)
    return module


def factory_in_package(source: str, name: str) -> Callable[..., Any]:
    """What `package.module:name` names; raises InputError with the cause and the line."""
    where = arch_argument(f"{source}:{name}")
    with importable(Path.cwd()), cause_shown(where, f"'{source}' does not import"):
        module = importlib.import_module(source)
    return _attribute(module, name, where)


def arch_argument(arch: str) -> str:
    """The argument as it was given, for errors."""
    return f"`arch={arch}`"


def _attribute(module: Any, name: str, where: str, field: str = "arch") -> Callable[..., Any]:
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        what = f"'{name}' is not callable" if hasattr(module, name) else f"there is no '{name}' in it"
        raise InputError(what, where=where, field=field, hint=nearest_spelling(name, known))
    return factory


@contextlib.contextmanager
def cause_shown(where: str, what: str, field: str = "arch", allowed: str = "") -> Iterator[None]:
    """Turn whatever the user's code raises, `sys.exit` included, into an InputError that shows the line.

    Args:
        allowed: how the code is called, where that may be the cause.
    """
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        users = [frame for frame in frames if _is_users(frame.filename)]
        frames = users or [frame for frame in frames if not _is_ours(frame.filename)]
        place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        raise InputError(f"{what}: {first_line(error)}", where=f"{where}{place}", field=field,
                         allowed=allowed) from error


@contextlib.contextmanager
def no_downloads(arch: str) -> Iterator[None]:
    """Let this thread open no connection: a network that is built for its user's weights needs none of others'.

    Raises:
        InputError: the code asks for one; what lies in torch's cache already is found without.
    """
    thread, connect, lookup = threading.get_ident(), socket.socket.connect, socket.getaddrinfo

    def refuse_outside(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return call(*args, **kwargs)
        raise InputError(
            "the code that builds the network wants to download something", where=arch_argument(arch), field="arch",
            hint="Let it build without weights (`weights=None`, `pretrained=False`): the model file's are loaded.",
        )

    socket.socket.connect = lambda self, address: refuse_outside(connect, self, address)
    socket.getaddrinfo = lambda *args, **kwargs: refuse_outside(lookup, *args, **kwargs)
    try:
        yield
    finally:
        socket.socket.connect, socket.getaddrinfo = connect, lookup


def _is_ours(file: str) -> bool:
    path = Path(file).resolve()
    return path.is_relative_to(OUR_ROOT) and "site-packages" not in path.relative_to(OUR_ROOT).parts


def _is_users(file: str) -> bool:
    return any(Path(file).resolve().is_relative_to(folder) for folder in _folders if folder != OUR_ROOT)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let the user's code import its neighbours; after everything else, so that it hides no installed package.

    Raises:
        InputError: one of the neighbours is called `isobit`, which is this package.
    """
    before, folder = list(sys.path), folder.resolve()
    _refuse_our_name(folder)
    if _LateImports not in sys.meta_path:
        sys.meta_path.append(_LateImports)
    if folder not in _folders:
        _folders.append(folder)
    if not folder.is_relative_to(OUR_ROOT):
        # A checkout on the path (PYTHONPATH, a script of tools/) has a `pipeline` and a `passes` at its top.
        sys.path[:] = [entry for entry in before if Path(entry or ".").resolve() != OUR_ROOT]
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    _forget_other_networks(folder)
    try:
        yield
    finally:
        sys.path[:] = before


def _refuse_our_name(folder: Path) -> None:
    for path in (folder / f"{OUR_NAME}.py", folder / OUR_NAME / "__init__.py"):
        if path.is_file() and path != Path(sys.modules[OUR_NAME].__file__ or "").resolve():
            raise InputError(
                f"the network's own module '{OUR_NAME}' has the name of this package, so neither its files nor ours "
                "could import it", where=str(path), field="arch", hint="Rename it.",
            )


def _forget_other_networks(folder: Path) -> None:
    """Take modules of another network's folder out of `sys.modules` where this folder has some of their names.

    What that network has imported stays with it.
    """
    others = [other for other in _folders if other not in (folder, OUR_ROOT)]
    for top in {name.partition(".")[0] for name in sys.modules} - {OUR_NAME}:
        if _home(sys.modules.get(top)) in others and importlib.machinery.PathFinder.find_spec(top, [str(folder)]):
            for name in [name for name in sys.modules if name.partition(".")[0] == top]:
                del sys.modules[name]


def _home(module: ModuleType | None) -> Path | None:
    """The folder in which a module at the top lies, or None where it has no file."""
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) or ([spec.origin] if spec.has_location else [])
    return Path(places[0]).resolve().parent if places else None


class _LateImports:
    """Finds neighbours that the user's functions import when they are called, after `sys.path` is as it was."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The protocol of `sys.meta_path`; asked last, so that it hides no installed package."""
        if path is not None:
            return None
        file = next((file for file in _files_above() if not file.startswith(_IMPORTERS)), "")
        inside = [folder for folder in _folders if file and Path(file).resolve().is_relative_to(folder)]
        folder = max(inside, key=lambda folder: len(folder.parts), default=None)
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
    """Let pickles find in `module` what a script kept in `__main__` when it was run."""
    before = sys.modules[MAIN]
    sys.modules[MAIN] = module
    try:
        yield
    finally:
        sys.modules[MAIN] = before
