"""Whether a folder is as the owner of a public key signed it, by the OpenSSF's `model-signing`.

`pipeline.artifact.signature` writes the signature. This is also a part of every artifact's `run.py` (see
`backends.device.standalone`): the standard library and the syntax of Python 3.8; the package is imported where a
signature is asked for, for few devices have it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isobit.pipeline.artifact.digest import SIGNATURE


def unlike_signed(folder: Path, key: Path) -> str:
    """Why a folder is not as the owner of a public key (PEM) signed it; empty where it is.

    Raises:
        ImportError: `model-signing` is not installed.
        ValueError: the key is not there, or no elliptic public key.
    """
    from model_signing import hashing, verifying

    path = folder / SIGNATURE
    config = verifying.Config().set_hashing_config(all_but(hashing, path))
    try:
        if not key.is_file():
            raise ValueError("not a file")
        config.use_elliptic_key_verifier(public_key=key)
    except Exception as error:  # whatever a cryptography library says of a file that is no key
        raise ValueError(f"{key}: the key cannot be read: {error}") from error
    if not path.is_file():
        return SIGNATURE + ": missing, nobody signed this folder"
    try:
        config.verify(folder.resolve(), path)
    except Exception:  # a wrong signature, another key, another file: all are one answer
        return SIGNATURE + ": not a signature of these files by this key"
    return ""


def all_but(hashing: Any, path: Path) -> Any:
    """What is hashed of a folder: every file but the signature at `path`.

    Args:
        hashing: the module of `model_signing`.
    """
    # A relative path would be taken for one below the folder.
    return hashing.Config().set_ignored_paths(paths=[path.resolve()], ignore_git_paths=False)
