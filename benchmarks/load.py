"""Load on an HTTP server by wrk, which costs little enough not to be what is measured."""

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rounds import Measures, cpu_seconds

SCRIPT = Path(__file__).with_name("call.lua")
USERS = 1_000
CONNECTIONS = 16
GRACE_SECONDS = 30

_prefixes = itertools.count()


class CannotMeasure(Exception):
    """A sentence for whoever typed the command."""


@dataclass(frozen=True)
class Request:
    """What is sent again and again. In the body ID, USER and KEY stand for what is different each time."""

    path: str
    headers: Mapping[str, str]
    body: str


def find_wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        raise CannotMeasure(
            "The load comes from wrk, which is not on PATH. On Debian and Ubuntu: apt install wrk; with Homebrew: "
            "brew install wrk. Then the same command again."
        )
    return found


def load(base_url: str, pid: int, request: Request, seconds: int, connections: int = CONNECTIONS) -> Measures:
    """As many calls as the server answers in some seconds. Raises CannotMeasure where one is not answered 200."""
    with tempfile.NamedTemporaryFile("w", suffix=".request", encoding="utf-8") as file:
        head = "".join(f"{name}: {value}\n" for name, value in request.headers.items())
        file.write(f"{request.path}\n{head}\n{request.body}")
        file.flush()
        prefix = f"load-{pid}-{next(_prefixes)}-"
        command = [find_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", SCRIPT]
        busy_before = cpu_seconds(pid)
        done = subprocess.run(
            [*command, base_url, "--", file.name, str(USERS), prefix],
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
            check=False,
        )
        busy = cpu_seconds(pid) - busy_before
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")] or [""]
    if not line:
        raise CannotMeasure(f"wrk came to no result: {done.stdout}{done.stderr}")
    calls, microseconds, p50, p99, wrong = map(int, line.split()[1:])
    if wrong or not calls:
        raise CannotMeasure(f"{wrong} of {calls} calls to {request.path} were not answered with 200.")
    return {
        "calls": calls,
        "calls/s": calls / microseconds * 1e6,
        "p50 ms": p50 / 1000,
        "p99 ms": p99 / 1000,
        "CPU µs/call": busy / calls * 1e6,
    }
