"""YAML as a recipe needs it: plain values, no key twice, and nothing that takes more memory or time than its text."""

from __future__ import annotations

import re
from collections.abc import Hashable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

MAX_DEPTH = 16  # of lists and mappings; the deepest recipe has 5


def parse_yaml(text: str) -> Any:
    """What the YAML says; raises ValueError, in one line, where it is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # a value that does not fit its explicit tag makes PyYAML stumble in any way
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def read_yaml(file: Path | Traversable, most: int) -> Any:
    """What a file of at most `most` bytes says; raises ValueError where it is longer or no YAML, OSError unread."""
    with file.open("rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is longer than {most:,} bytes")
    return parse_yaml(data.decode())


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2 and no key twice: 1.1 takes `1e-3` for text and `off` for false.

    No aliases and no deep nesting: a few bytes of them fill any memory.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "aliases (*name) are not taken: write the value out",
                                              self.peek_event().start_mark)
        self._check_depth(self.depth + 1)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        self._check_depth(self.flow_level + 1)
        super().fetch_flow_collection_start(TokenClass)

    def _check_depth(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAX_DEPTH} deep", self.get_mark())

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
