"""Values of JSON, YAML and the files of an artifact that say something else than they did."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, content_digest
from isobit.pipeline.artifact.manifest import sha256_file

NUMBERS: tuple[Any, ...] = (
    -1, 0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308, 1e-320,
    float("nan"), float("inf"), True, None, "", "x", "\x1b[2J\n", "../../etc/passwd", "9" * 5000, [], {}, [[]],
    {"a": None}, "\ud800",
)


def dumped(content: Any) -> bytes:
    """As JSON; what UTF-8 cannot say is escaped."""
    return json.dumps(content).encode()


def change_tree(chance: random.Random, content: Any) -> Any:
    """A value, key or branch of lists and mappings is another, gone, or there twice."""
    places = [(container, key) for container, key in _places(content)]
    if not places:
        return chance.choice(NUMBERS)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        container, key = chance.choice(places)
        if key not in (container if isinstance(container, dict) else range(len(container))):
            continue
        kind = chance.randrange(8)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container.extend(container[key:key + 1] * chance.choice((1, 5, 2000)))
        elif kind == 1:
            container[str(chance.choice(("", "x", f"{key}2", "\x1b[2J", "__class__")))] = container.pop(key)
        elif kind == 2:
            other, place = chance.choice(places)
            with_other = other.get(place) if isinstance(other, dict) else other[place] if place < len(other) else None
            container[key] = json.loads(json.dumps(with_other))
        elif kind == 3:
            nested: Any = container[key]
            for _ in range(chance.choice((3, 30, 300))):
                nested = [nested]
            container[key] = nested
        elif kind == 4 and isinstance(container[key], int | float) and not isinstance(container[key], bool):
            container[key] = chance.choice((-container[key], container[key] * 10**9, container[key] + 1, 0))
        else:
            container[key] = chance.choice(NUMBERS)
    return content


def _places(content: Any) -> list[tuple[Any, Any]]:
    found, left = [], [content]
    while left:
        each = left.pop()
        items = list(each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ())
        found += [(each, key) for key, _ in items]
        left += [value for _, value in items]
    return found


def json_tree(chance: random.Random, path: Path) -> None:
    """A value of a JSON file changes."""
    if path.suffix == ".json":
        content = change_tree(chance, json.loads(path.read_bytes()))
        path.write_bytes(b"[" * 200_000 if chance.random() < 0.02 else dumped(content))



def yaml_tree(chance: random.Random, path: Path) -> None:
    """A value of a YAML file changes."""
    content = change_tree(chance, yaml.safe_load(path.read_text(encoding="utf-8")))
    path.write_bytes(yaml.safe_dump(content, allow_unicode=False).encode("utf-8", "replace"))


def yaml_text(chance: random.Random, path: Path) -> None:
    """Deep nesting, aliases, tags, odd scalars or lines in other places."""
    lines = path.read_text(encoding="utf-8").splitlines()
    place = chance.randrange(len(lines))
    bomb = "\n".join([f"a0: &a0 {[0] * 9}"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)])
    odd = ("!!python/object/apply:os.mkdir [canary]", "!!python/name:os.system", "*x", "&x [*x]", "!!binary =",
           "!!int a", "!!float '.'", "!!timestamp 9", "2001-99-99", "0x" + "f" * 4000, "1e999999", ".nan", ".inf", "~",
           "0o777", "1:2:3", "[" * 5000, "{" * 5000, "? ? ?", "| \n x", "%TAG", "'", "\"\\x", "<<: *x", "!<!> x", "\t",
           "2" * 5000, "\u2028", "!!set {a, b}", "!!omap [a: 1]", "1_000", "yes", "- - - -", "@", "`", "...", "---")
    kind = chance.randrange(6)
    if kind == 0:
        lines.insert(place, chance.choice((bomb, "---", "\x00", "\ufeff", "%YAML 9.9", "? [a]: b", "<<: {a: 1}")))
    elif kind == 1:
        lines.insert(place, lines[chance.randrange(len(lines))])
    elif kind == 2:
        lines[place] = chance.choice((" ", "    ", "- ", "\t")) + lines[place]
    elif kind == 3:
        del lines[place]
    else:
        key = lines[place].partition(":")[0]
        lines[place] = f"{key}: {chance.choice(odd)}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def reseal(path: Path) -> None:
    """Let manifest and certificate fit a file that changed, as whoever tampers would, where they can still be read."""
    folder = path.parent
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        if path.name in content["files"]:
            content["files"][path.name].update(sha256=sha256_file(path), bytes=path.stat().st_size)
        content[DIGEST] = content_digest(content)
        (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
        certificate = folder / "certificate.json"
        said = json.loads(certificate.read_bytes())
        said["manifest"] = content[DIGEST]
        said[DIGEST] = content_digest(said)
        certificate.write_text(json.dumps(said), encoding="utf-8")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return
