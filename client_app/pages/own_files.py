"""The pages' own files, beside what NiceGUI brings: one style sheet, one picture."""

import hashlib
from importlib.resources import files
from typing import Final

_NAMES: Final = ("ledger.css", "icon.svg")


def _read() -> dict[str, bytes]:
    folder = files("client_app").joinpath("pages")
    return {name: folder.joinpath(name).read_bytes() for name in _NAMES}


CONTENTS: Final = _read()
"""By name."""

_DIGEST: Final = hashlib.sha256(b"".join(CONTENTS.values())).hexdigest()[:16]


def address_of(name: str) -> str:
    """Where a file is served: it changes with the files, so browsers may keep them for good."""
    return f"/pages/{_DIGEST}/{name}"
