"""What only some systems have."""

from typing import Any

import pytest


def posix(module: str) -> Any:
    """A module of POSIX systems; elsewhere whoever asks for it, a test or a whole file of them, is skipped."""
    return pytest.importorskip(module, reason=f"there is no {module} on this system")
