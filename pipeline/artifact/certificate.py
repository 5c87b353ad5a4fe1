"""What a build proved, bound to the files that it proved it of: `certificate.json`.

The manifest says which files, this says what holds of them and where that was shown. It is written last, stands in no
manifest, and names the manifest by its digest. Also a part of the script that checks it without Isobit: the standard
library only, and the syntax of Python 3.8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, content_digest

CERTIFICATE = "certificate.json"
FORMAT = 1
# Not in the manifest: itself, the certificate, what differs between equal builds, a signature of all the rest.
APART = (MANIFEST, CERTIFICATE, "timings.json", "model.sig")
KEPT = ("verdicts", "gate", "read_back", "directed", "every_input", "codes", "samples")  # of parity.json


def certificate(manifest: dict[str, Any], parity: dict[str, Any], processor: str) -> dict[str, Any]:
    """The content of the file.

    Args:
        manifest: the content of manifest.json.
        parity: that of parity.json.
        processor: where the artifact was run.
    """
    proven = {key: parity[key] for key in KEPT}
    content = {"format": FORMAT, "manifest": manifest[DIGEST], "processor": processor, "proven": proven}
    return {**content, DIGEST: content_digest(content)}


def write_certificate(folder: Path, processor: str) -> None:
    """Write the certificate of a folder whose manifest and parity.json stand."""
    manifest, parity = (_read(folder / name) for name in (MANIFEST, "parity.json"))
    text = json.dumps(certificate(manifest, parity, processor), indent=1) + "\n"
    (folder / CERTIFICATE).write_text(text, encoding="utf-8")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def certified(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The certificate of a folder, and what is wrong with it and the files that it is of, a line each.

    Returns:
        an empty certificate where there is none that can be read.
    """
    try:
        content, manifest = _read(folder / CERTIFICATE), _read(folder / MANIFEST)
        own = [content.get(DIGEST) == content_digest(content), manifest.get(DIGEST) == content_digest(manifest)]
        files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        proven = content["proven"]
        tensors, limit = proven["every_input"]["tensors"], proven["every_input"]["sum_limit"]
        rules = [(rule["rule"], rule["passed"]) for rule in proven["gate"]["rules"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {}, ["no certificate and manifest that can be read: " + (str(error) or type(error).__name__)]
    problems = [name + ": changed since it was written" for name, same in zip((CERTIFICATE, MANIFEST), own) if not same]  # noqa: B905
    if content.get("format") != FORMAT:
        problems.append(CERTIFICATE + ": of another format")
    if content.get("manifest") != manifest.get(DIGEST):
        problems.append(CERTIFICATE + ": of other files, the manifest is not the one that it names")
    problems += _files(folder, files)
    problems += ["a rule of the build did not hold: " + rule for rule, passed in rules if passed is not True]
    if not rules:
        problems.append(CERTIFICATE + ": no rule was held")
    for name, tensor in tensors.items():
        bound = tensor.get("bound")
        if bound is not None and (limit is None or not 0 <= bound <= limit):
            problems.append("{}: its sums reach {}, more than {}".format(name, bound, limit))  # noqa: UP032
    if not problems and {key: _read(folder / "parity.json").get(key) for key in KEPT} != proven:
        problems.append(CERTIFICATE + ": says other things than parity.json")
    return content, problems


def verify(folder: Path, derive: Callable[[Path], Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """What is certified of a folder, in lines, and what is wrong.

    Args:
        derive: from a folder, by the name of a tensor, `bound` and `digest` of its sums, from the files anew.
    """
    content, problems = certified(folder)
    if problems:
        return [], problems
    proven = content["proven"]
    tensors, derived = proven["every_input"]["tensors"], derive(folder)
    again = 0
    for name, tensor in tensors.items():
        if name not in derived or "digest" not in tensor:
            continue
        again += 1
        if derived[name].digest != tensor["digest"]:
            problems.append(name + ": its thresholds, worked out from the files, are not those that were proven")
        if derived[name].bound is not None and derived[name].bound != tensor.get("bound"):
            problems.append(name + ": its sums, worked out from the files, reach {:,}, not {}".format(
                derived[name].bound, tensor.get("bound")))
    verdicts = [tensor["verdict"] for tensor in tensors.values()]
    exact, parting, left = (verdicts.count(verdict) for verdict in ("equal", "parts", "open"))
    return [
        "proven on {}".format(content["processor"]),
        f"every input: {exact} tensors exact, {parting} part from exact arithmetic as listed, {left} not gone through",
        f"worked out again from the files: sums and thresholds of {again} of {len(tensors)} tensors",
        "read back: {}".format((proven["read_back"] or {}).get("text", "not")),
        "directed: {}".format((proven["directed"] or {}).get("text", "none")),
        "sampled: {:,} codes of {:,} samples".format(proven["codes"]["compared"], proven["samples"]),
    ], problems


def _files(folder: Path, files: dict[str, str]) -> list[str]:
    problems = []
    for name, wanted in sorted(files.items()):
        path = folder / name
        if path.is_symlink() or not path.is_file() or folder.resolve() not in path.resolve().parents:
            problems.append(name + ": missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            problems.append(name + ": changed since it was built")
    known = {*files, *APART}
    more = sorted(str(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if not path.is_dir())
    return problems + [name + ": nothing says what it is" for name in more if name not in known]
