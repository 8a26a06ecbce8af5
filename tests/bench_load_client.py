"""The load client in Rust, `tests/load_client`: built by cargo, asked for one phase at a time."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from client_app.bench_machine import BUILD, ROOT, NotMeasured, RunFailed

_CRATE: Final = ROOT / "tests/load_client/Cargo.toml"
_TARGET: Final = Path(os.environ.get("CARGO_TARGET_DIR", BUILD / "rust"))
_BUILD_TIMEOUT_S: Final = 600.0
_RUN_TIMEOUT_S: Final = 600.0


def load_client() -> Path:
    """The load client's program, built if cargo is there. Raises NotMeasured and RunFailed."""
    program = _TARGET / "release/ringledger-load-client"
    if shutil.which("cargo") is None:
        if program.exists():
            return program
        raise NotMeasured("no cargo on PATH to build tests/load_client with")
    build = ("cargo", "build", "--quiet", "--release", "--manifest-path", str(_CRATE))
    environment = os.environ | {"CARGO_TARGET_DIR": str(_TARGET)}
    if subprocess.run(build, check=False, env=environment).returncode:
        raise RunFailed("cargo did not build tests/load_client")
    return program


def ask_load_client(program: Path, *arguments: str) -> dict[str, Any]:
    """One phase: what it tells as JSON. Raises RunFailed, also when a deposit was refused."""
    try:
        done = subprocess.run(
            (str(program), *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=_RUN_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"the load client took over {_RUN_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise RunFailed(f"the load client: {done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    if result["refused"]:
        raise RunFailed(f"{result['refused']} deposits were refused")
    return result
