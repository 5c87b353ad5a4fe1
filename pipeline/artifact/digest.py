"""The digest with which a manifest vouches for itself: it hashes the files, and this hashes what it says of them.

Also a part of every artifact's `run.py` (see `backends.device.standalone`): the standard library only, and the syntax
of Python 3.8.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

MANIFEST = "manifest.json"
RUNNER = "run.py"
PREDICTOR = "predict.py"
DECODER = "decoder.py"
TIMINGS = "timings.json"
SIGNATURE = "model.sig"
DIGEST = "sha256"  # the manifest's field that holds it


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 of everything that a manifest says but its digest, whatever the layout of its text.

    Raises:
        ValueError: a number is not finite.
    """
    rest = {key: value for key, value in content.items() if key != DIGEST}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
