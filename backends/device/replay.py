"""The common part of every `run.py`: signature and hashes before, the latency after, the verdict last.

Shipped inside each target's script (see `backends.device.standalone`): the standard library only, and the syntax of
Python 3.8.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from isobit.backends.device.timing import (
    ROUNDS,
    Contender,
    aligned,
    cells,
    clock_name,
    clock_of,
    columns,
    conditions,
    interleave,
    milliseconds,
)
from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, content_digest
from isobit.pipeline.artifact.signed import unlike_signed

DOCUMENTS = (".html", ".md", ".svg", ".png", "facts.json")  # for people: a device computes the same without them
CANNOT = 2  # exit status where nothing can be said: neither right nor wrong
FEW_ROUNDS = 9  # of the latency beside a check: an inference may take seconds
ON_DEVICE = "`run.py --bench` measures it on the device"  # of an artifact for another processor than the one at hand


class CannotCheck(Exception):
    """What a check needs is not here; the message says how to get it."""


def add_options(parser: argparse.ArgumentParser) -> Any:
    """Add what every `run.py` takes; the group of what it does in place of the check, of which one may be asked for."""
    parser.add_argument("--seconds", type=_seconds, default=1.0, help="how long to measure the latency")
    parser.add_argument("--require-signature", type=Path, metavar="KEY.pub", help=(
        "first compare the folder with the signature of this public key (PEM): finds damage and mix-ups; against an "
        "attacker run `model_signing verify` from outside the folder; needs model-signing"))
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--bench", action="store_true", help=(
        "say what an inference takes, as `isobit bench` says it of this folder alone, no more"))
    return instead


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e6:
        raise argparse.ArgumentTypeError("0 up to a million")
    return seconds


def unsigned(folder: Path, key: Path | None) -> list[str]:
    """Why the folder is not as the owner of `key` signed it; empty where it is, or where no key is given.

    Raises:
        CannotCheck: `model-signing` is not installed, or the key cannot be read.
    """
    if key is None:
        return []
    try:
        problem = unlike_signed(folder, key)
    except ImportError as error:
        raise CannotCheck(
            f"--require-signature needs the package model-signing ({error}): pip install model-signing pyopenssl"
        ) from error
    except ValueError as error:
        raise CannotCheck(
            f"{error}; give an elliptic public key as PEM: openssl ec -in key.pem -pubout -out key.pub") from error
    if problem:
        return [problem]
    print("signature: the folder is as the owner of " + key.name + " signed it")
    return []


def need_probe(folder: Path, manifest: dict[str, Any], name: str) -> None:
    """Raise CannotCheck where the file `name`, with which layers are run by themselves, is not in the folder."""
    if not _is_own_file(folder / name, folder):
        lost = name in manifest["files"]
        raise CannotCheck(name + (": missing, it was built: copy the whole folder" if lost else
                                  ": the build wrote none: no layer can be run by itself here"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of manifest.json.

    Raises:
        ValueError: it is missing, no JSON, or not what was written: its own digest says so.
    """
    path = folder / MANIFEST
    if not _is_own_file(path, folder):
        raise ValueError(MANIFEST + ": missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get(DIGEST) == content_digest(content) and isinstance(content["files"], dict):
            return content
    except (ValueError, AttributeError, KeyError, RecursionError):
        pass
    raise ValueError(MANIFEST + ": changed since it was built")


def broken_files(folder: Path, manifest: dict[str, Any], needed: Iterable[str]) -> list[str]:
    """What is wrong with the files of an artifact, one line each.

    Args:
        folder: of the artifact.
        manifest: see `read_manifest`. Files that it names must be there, in the folder itself, as they were built;
            documents for people are not asked for.
        needed: files that the manifest must name: what the target writes for the device.
    """
    broken = [name + ": not in the manifest" for name in needed if name not in manifest["files"]]
    for name, entry in sorted(manifest["files"].items()):
        path = folder / name
        if path.name.endswith(DOCUMENTS):
            continue
        if not _is_own_file(path, folder):
            broken.append(name + ": missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            broken.append(name + ": changed since it was built")
    return broken


def check_files(folder: Path, needed: Iterable[str]) -> dict[str, Any]:
    """The content of manifest.json; raises ValueError where a file is not as it was built, see `broken_files`."""
    manifest = read_manifest(folder)
    broken = broken_files(folder, manifest, needed)
    if broken:
        raise ValueError("; ".join(broken))
    return manifest


def _is_own_file(path: Path, folder: Path) -> bool:
    """A file, and no link to one that lies elsewhere."""
    return path.is_file() and folder.resolve() in path.resolve().parents


def print_latency(infer: Callable[[], object], seconds: float, of: str = "", threads: int = 1) -> None:
    """Call `infer`, one inference at batch 1, for `seconds`, and say what the median took, and `of` what."""
    times = interleave({"": infer}, FEW_ROUNDS, seconds / FEW_ROUNDS, clock_of(threads))[""]
    on = "one thread" if threads == 1 else f"{threads} threads"
    print(f"latency: {milliseconds(times)[1]:.3f} ms (median, {on}, batch 1, {clock_name(threads)}{of})")


def show_bench(
    folder: Path, timed: Callable[[Path, int, int], Contender], seconds: float, threads: int = 1
) -> list[str]:
    """Print what `isobit bench` prints of this folder alone; nothing is found wrong.

    Args:
        timed: from folder, batch and threads, what is timed; raises as it does for `isobit bench`.
        seconds: how long it runs, all rounds together.
    """
    contender, name = timed(folder, 1, threads), folder.name
    times = interleave({name: contender.run}, ROUNDS, seconds / ROUNDS, clock_of(threads))[name]
    print("\n".join(aligned([columns(name), cells(name, contender, times, times)])))
    print(conditions(threads, 1, ROUNDS))
    return []


def verdict(check: Callable[[], list[str]], checks: bool = True) -> int:
    """Print what `check` finds wrong, then PASS or FAIL; 0 where it is nothing, else 1, and `CANNOT` where it cannot
    check, or cannot write what it found. Any other error is a finding.

    What `checks` nothing, as times are, does not pass: it ends without the word.

    Who closes the output before the script begins asks for the exit status alone.
    """
    if sys.stdout is None:  # it was closed before the script began
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (as long as the script runs)
    try:
        status = _judged(check, "PASS" if checks else "")
        sys.stdout.flush()
        return status
    except OSError:  # a full disk, a reader that has gone
        with contextlib.suppress(OSError):  # what is left is written when Python ends; a stream in memory has no number
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CANNOT


def _judged(check: Callable[[], list[str]], passed: str) -> int:
    status = 1
    try:
        problems = check()
    except CannotCheck as error:
        problems, status = [str(error)], CANNOT
    except Exception as error:
        said = type(error) is ValueError  # ours, in words
        problems = [str(error) if said else f"{type(error).__name__}: {error}"]
    encoding = sys.stdout.encoding or "ascii"
    for line in problems:  # a name may hold what this terminal cannot show
        print(line.encode(encoding, "backslashreplace").decode(encoding))
    last = "FAIL" if problems else passed
    if last:
        print(last)
    return status if problems else 0
