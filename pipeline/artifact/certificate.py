"""What a build proved, bound to the files that it proved it of: `certificate.json`.

The manifest says which files, this says what holds of them and where that was shown. It is written last, stands in no
manifest, and names the manifest by its digest. Also a part of the script that checks it without Isobit: the standard
library only, and the syntax of Python 3.8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, SIGNATURE, TIMINGS, content_digest

CERTIFICATE = "certificate.json"
FORMAT = 1
MOST_BYTES = 64 << 20  # of a file of facts
# Not in the manifest: itself, the certificate, what differs between equal builds, a signature of all the rest.
APART = (MANIFEST, CERTIFICATE, TIMINGS, SIGNATURE)
CACHE = "__pycache__/"
COMPILED = "; an import left it, and the next one runs it in place of the file itself: remove that folder"
KEPT = ("verdicts", "gate", "read_back", "directed", "every_input", "codes", "samples")  # of parity.json


def certificate(
    manifest: dict[str, Any], parity: dict[str, Any], processor: str, derived: Iterable[str]
) -> dict[str, Any]:
    """The content of the file.

    Args:
        manifest: the content of manifest.json.
        parity: that of parity.json.
        processor: where the artifact was run.
        derived: names of the tensors whose sums and thresholds the files alone give.
    """
    content = {
        "format": FORMAT, "manifest": manifest[DIGEST], "processor": processor, "derived": sorted(derived),
        "proven": {key: parity[key] for key in KEPT},
    }
    return {**content, DIGEST: content_digest(content)}


def write_certificate(folder: Path, processor: str, derived: Iterable[str] = ()) -> None:
    """Write the certificate of a folder whose manifest and parity.json stand; arguments as of `certificate`."""
    manifest, parity = (_read(folder / name) for name in (MANIFEST, "parity.json"))
    text = json.dumps(certificate(manifest, parity, processor, derived), indent=1) + "\n"
    (folder / CERTIFICATE).write_text(text, encoding="utf-8")


def _read(path: Path) -> Any:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError(path.name + " is no file of the folder, or a very large one")
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(text: str) -> str:
    """A text in which nothing moves a terminal's cursor or ends a line."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def certified(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The certificate of a folder, and what is wrong with it and the files that it is of, a line each.

    Returns:
        an empty certificate where there is none that can be read.
    """
    try:
        content, manifest, parity = (_read(folder / name) for name in (CERTIFICATE, MANIFEST, "parity.json"))
        files = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        problems = _own(content, manifest)
        if {key: parity.get(key) for key in KEPT} != content["proven"]:
            problems.append(CERTIFICATE + ": says other things than parity.json")
        problems += _claims(content["proven"])
        problems += [] if all(isinstance(name, str) for name in content["derived"]) else ["derived: not names"]
        quantized = {entry["name"] for entry in manifest.get("tensors", ()) if entry["kind"] == "activation"}
        problems += [f"{name}: nothing is said of it for every input" for name in sorted(
            quantized - {*content["proven"]["every_input"]["tensors"]})]
    except Exception as error:  # whatever somebody wrote there
        return {}, [f"no certificate and manifest that can be read: {type(error).__name__}: {error}"]
    return content, problems + _files(folder, files)


def _own(content: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """Whether certificate and manifest are what was written, and belong together."""
    problems = [name + ": changed since it was written" for name, said in ((CERTIFICATE, content), (MANIFEST, manifest))
                if said.get(DIGEST) != content_digest(said)]
    if content.get("format") != FORMAT:
        problems.append(CERTIFICATE + ": of another format")
    if content.get("manifest") != manifest.get(DIGEST):
        problems.append(CERTIFICATE + ": of other files, the manifest is not the one that it names")
    return problems


def _claims(proven: dict[str, Any]) -> list[str]:
    """What a certificate says that no proof can have said."""
    gate, reached = proven["gate"], proven["every_input"]
    problems = ["a rule of the build did not hold: " + str(rule["rule"]) for rule in gate["rules"]
                if rule["passed"] is not True]
    if not gate["rules"] or gate["passed"] is not True or proven["verdicts"]["parity"]["status"] != "ok":
        problems.append(CERTIFICATE + ": the build was held to no rule, or did not pass")
    limit = reached["sum_limit"]
    for name, tensor in reached["tensors"].items():
        bound, verdict, over = tensor.get("bound"), tensor["verdict"], tensor["over"]
        if bound is not None and not 0 <= int(bound) <= int(limit):
            problems.append(f"{name}: its sums reach {bound}, more than {limit}")
        if verdict not in ("equal", "parts", "open") or (
                verdict != "open" and over != "itself" and len(tensor["digest"]) != 64):
            problems.append(f"{name}: said to be '{verdict}' without what it was gone through by")
    return problems


def verify(folder: Path, derive: Callable[[Path], Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """What is certified of a folder, in lines, and what is wrong.

    Args:
        derive: from a folder, by the name of a tensor, `bound` and `digest` of its sums, from the files anew.
    """
    content, problems = certified(folder)
    if problems:
        return [], [*map(_plain, problems)]
    proven = content["proven"]
    tensors, derived, left = proven["every_input"]["tensors"], derive(folder), []
    for name, tensor in tensors.items():
        found = derived.get(name)
        if found is None:
            left.append(name)
            continue
        if found.digest != tensor.get("digest"):
            problems.append(name + ": its thresholds, worked out from the files, are not those that were proven")
        # The build's bound is of the whole grid, clamped or not.
        if found.bound is not None and not found.bound <= int(tensor.get("bound", -1)):
            problems.append("{}: its sums, worked out from the files, reach {:,}, more than {}".format(
                name, found.bound, tensor.get("bound")))
    problems += [f"{name}: its sums can no longer be worked out from the files" for name in content["derived"]
                 if name not in derived]
    verdicts = [tensor["verdict"] for tensor in tensors.values()]
    exact, parting, unsaid = (verdicts.count(verdict) for verdict in ("equal", "parts", "open"))
    again = f"sums and thresholds of {len(tensors) - len(left)} of {len(tensors)} tensors"
    others = "; of the others (of two tensors, of tables, in float, logits) run.py compares samples: "
    again += others + ", ".join(left) if left else ""
    nothing = "nothing: of this target's files the hashes alone are compared here, and run.py runs them"
    said = [
        "all files are as they were built; proven on {}".format(content["processor"]),
        f"the build says, every input: {exact} tensors exact, {parting} part from that as report.md lists, "
        f"{unsaid} not gone through",
        f"worked out again from the files: {again if derived else nothing}",
        "the build says, read back: {}".format((proven["read_back"] or {}).get("text", "not")),
        "the build says, directed: {}".format((proven["directed"] or {}).get("text", "none")),
        "the build says, sampled: {:,} codes of {:,} samples".format(proven["codes"]["compared"], proven["samples"]),
    ]
    return [*map(_plain, said)], [*map(_plain, problems)]


def _files(folder: Path, files: dict[str, str]) -> list[str]:
    problems = []
    for name, wanted in sorted(files.items()):
        path = folder / name
        if path.is_symlink() or not path.is_file() or folder.resolve() not in path.resolve().parents:
            problems.append(name + ": missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            problems.append(name + ": changed since it was built")
    known = {*files, *APART}
    more = sorted(str(path.relative_to(folder).as_posix()) for path in folder.rglob("*")
                  if path.is_symlink() or not path.is_dir())
    return problems + [name + ": nothing says what it is" + (COMPILED if name.startswith(CACHE) else "")
                       for name in more if name not in known]
