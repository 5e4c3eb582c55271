"""Processes of ours without the second that their imports take: each is forked from one that has imported everything.

It is a process like any: with an id, an environment, a folder, streams and an exit code of its own, killed and ended as
others are. How `subscription-mcp` starts from nothing is seen where clients start it, over stdio.
"""

import atexit
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TextIO

PROGRAM = "subscription_mcp"
ROOT = Path(__file__).resolve().parents[1]
IS_POSSIBLE = sys.platform == "linux"
ASKED_BYTES_MAX = 1 << 17


class Forked:
    """What `subprocess.Popen` is, for a process that somebody else started; its exit code comes through a pipe."""

    stderr: TextIO | None = None
    returncode: int | None = None

    def __init__(self, pid: int, code: TextIO) -> None:
        self.pid = pid
        self._code = code

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(PROGRAM, timeout or 0)
        return code

    def _ended(self, within_seconds: float | None) -> int | None:
        if self.returncode is None and wait([self._code], within_seconds):
            with self._code:
                self.returncode = os.waitstatus_to_exitcode(int(self._code.read()))
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, streams: Sequence[IO[Any]]
) -> Forked:
    """`subscription-mcp ARGUMENTS` in a process of its own, which reads the first stream and writes the others."""
    read, write = os.pipe()
    asked = json.dumps([arguments, dict(environment), str(folder)]).encode()
    assert len(asked) <= ASKED_BYTES_MAX
    socket.send_fds(everything_imported(), [asked], [*(stream.fileno() for stream in streams), write])
    os.close(write)
    told = os.fdopen(read)
    return Forked(int(told.readline()), told)


def serve(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> Forked:
    """One that goes on: what it says on stderr can be read while it does."""
    read, write = os.pipe()
    with Path(os.devnull).open("r+b") as nothing, os.fdopen(write, "wb") as written:
        process = start(arguments, environment, folder, [nothing, nothing, written])
    process.stderr = os.fdopen(read, encoding="utf-8")
    return process


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    standard_input: str,
    timeout_seconds: float,
) -> "subprocess.CompletedProcess[str]":
    """One that is waited for, with all it said."""
    with TemporaryFile() as given, TemporaryFile() as output, TemporaryFile() as errors:
        given.write(standard_input.encode())
        given.seek(0)
        process = start(arguments, environment, folder, [given, output, errors])
        try:
            code = process.wait(timeout_seconds)
        finally:
            process.kill()
        for written in (output, errors):
            written.seek(0)
        said = [written.read().decode() for written in (output, errors)]
    return subprocess.CompletedProcess([PROGRAM, *arguments], code, *said)


@cache
def everything_imported() -> socket.socket:
    """The way to the one process that all others are forked from, which ends with ours."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(its.fileno())],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[its.fileno()],
    )
    its.close()

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


def main(channel: socket.socket) -> None:
    """Fork a process for each request; in it, and only there, come back and be the program."""
    package = import_module(PROGRAM)
    for module in pkgutil.walk_packages(package.__path__, f"{PROGRAM}."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    gc.freeze()  # so that no process copies all of it only to look through it as it ends
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that tell exit codes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, and they end us
    while True:
        asked, descriptors, _, _ = socket.recv_fds(channel, ASKED_BYTES_MAX, 4)
        if not asked:
            os._exit(0)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    channel.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, code = descriptors
    pid = os.fork()
    if pid != 0:
        for stream in streams:
            os.close(stream)
        os.write(code, f"{pid}\n".encode())
        os.write(code, str(os.waitpid(pid, 0)[1]).encode())
        os._exit(0)
    os.close(code)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    arguments, environment, folder = json.loads(asked)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[1:] = arguments


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
    # Its end is the interpreter's: with exit codes, tracebacks and what is done at exit.
    runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)
