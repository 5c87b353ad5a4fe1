"""Who wrote an artifact: a signature of the whole folder, certificate included, by the OpenSSF's `model-signing`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from isobit.pipeline.artifact.certificate import certified
from isobit.pipeline.artifact.digest import SIGNATURE
from isobit.pipeline.artifact.signed import all_but, unlike_signed
from isobit.pipeline.errors import InputError

_MISSING = "install it: pip install 'isobit[sign]'"


def sign(folder: Path, key: Path) -> Path:
    """Sign every file of a folder with an elliptic private key (PEM, without a password), into `model.sig` there.

    Raises:
        InputError: the folder is not as it was certified, the key cannot be read, or `model-signing` is not installed.
    """
    signing, hashing = _library()
    path = folder / SIGNATURE
    if problems := certified(folder)[1]:
        raise InputError(f"the folder is not as it was built: {problems[0]}", where=str(folder), field="artifact",
                         hint="Build the artifact again.")
    try:
        if not key.is_file():
            raise ValueError("not a file")
        config = signing.Config().set_hashing_config(all_but(hashing, path))
        with tempfile.TemporaryDirectory() as place:  # a signature that stands is left alone until there is another
            made = Path(place) / SIGNATURE
            config.use_elliptic_key_signer(private_key=key).sign(folder.resolve(), made)
            shutil.copyfile(made, path)
    except Exception as error:  # whatever a cryptography library says of a file that is no key
        raise InputError("the folder cannot be signed with this key", where=str(key), field="key",
                         allowed="an elliptic private key as PEM, without a password",
                         hint="openssl ecparam -name prime256v1 -genkey -noout -out key.pem") from error
    return path


def signature_problem(folder: Path, key: Path) -> str:
    """Why a folder is not as the owner of a public key (PEM) signed it; empty where it is.

    Raises:
        InputError: the key is not there, or `model-signing` is not installed.
    """
    try:
        return unlike_signed(folder, key)
    except ImportError as error:
        raise _missing(error) from error
    except ValueError as error:
        raise InputError("the key cannot be read", where=str(key), field="key",
                         allowed="an elliptic public key as PEM",
                         hint="openssl ec -in key.pem -pubout -out key.pub") from error


def _library() -> tuple[Any, Any]:
    try:
        from model_signing import hashing, signing
    except ImportError as error:
        raise _missing(error) from error
    return signing, hashing


def _missing(error: ImportError) -> InputError:
    return InputError(f"signatures need the package model-signing ({error})", field="key", hint=_MISSING)
