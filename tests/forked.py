"""Processes of ours without the second that their imports take: each is forked from one that has imported everything.

It is a process like any: with an id, an environment, a folder, streams and an exit code of its own, killed and ended as
others are. How `subscription-mcp` starts from nothing is seen in test_mcp_json.py, test_readme.py and test_forked.py.
"""

import atexit
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, NamedTuple, TextIO

PROGRAM = "subscription_mcp"
ALSO_IMPORTED = ("mcp", "mcp.client.stdio", "mcp.client.streamable_http", "mcp.server.mcpserver")
"""What servers and clients of the tests and the examples use besides."""
ROOT = Path(__file__).resolve().parents[1]
STAND_IN = Path(__file__).with_name("stand_in.py")
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
    words: Sequence[str], environment: Mapping[str, str], folder: Path, streams: Sequence[IO[Any]]
) -> Forked:
    """`python WORDS`, a script or `-m` and a module with its arguments, in a process of its own, which reads the first
    stream and writes the others."""
    read, write = os.pipe()
    asked = json.dumps([words, dict(environment), str(folder)]).encode()
    assert len(asked) <= ASKED_BYTES_MAX
    handed_over = [*(stream.fileno() for stream in streams), write]
    socket.send_fds(everything_imported().channel, [asked], handed_over)
    os.close(write)
    told = os.fdopen(read)
    return Forked(int(told.readline()), told)


def serve(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Forked:
    """One that goes on: what it says on stderr can be read while it does."""
    read, write = os.pipe()
    with Path(os.devnull).open("r+b") as nothing, os.fdopen(write, "wb") as written:
        process = start(words, environment, folder, [nothing, nothing, written])
    process.stderr = os.fdopen(read, encoding="utf-8")
    return process


def run(
    words: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    standard_input: str,
    timeout_seconds: float,
) -> "subprocess.CompletedProcess[str]":
    """One that is waited for, with all it said."""
    with TemporaryFile() as given, TemporaryFile() as output, TemporaryFile() as errors:
        given.write(standard_input.encode())
        given.seek(0)
        process = start(words, environment, folder, [given, output, errors])
        try:
            code = process.wait(timeout_seconds)
        finally:
            process.kill()
        for written in (output, errors):
            written.seek(0)
        said = [written.read().decode() for written in (output, errors)]
    return subprocess.CompletedProcess([sys.executable, *words], code, *said)


def python() -> str:
    """What somebody else can start in place of Python, such as a client its stdio server: with the words of `start`."""
    return everything_imported().python if IS_POSSIBLE else sys.executable


class EverythingImported(NamedTuple):
    """The ways to it: ours, and a program for everybody else."""

    channel: socket.socket
    python: str


@cache
def everything_imported() -> EverythingImported:
    """The one process that all others are forked from, which ends with ours."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = TemporaryDirectory()  # nobody else may look into it
    address, python = Path(folder.name) / "forked", Path(folder.name) / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{STAND_IN}" "{address}" "$@"\n')
    python.chmod(0o700)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(address))
    listener.listen()
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(its.fileno()), str(listener.fileno()), str(python)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[its.fileno(), listener.fileno()],
    )
    its.close()
    listener.close()

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()
        folder.cleanup()

    return EverythingImported(ours, str(python))


def main(channel: socket.socket, listener: socket.socket) -> list[str]:
    """Fork a process for each request; in it, and only there, come back with the words of what it is to be."""
    package = import_module(PROGRAM)
    for module in pkgutil.walk_packages(package.__path__, f"{PROGRAM}."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for name in ALSO_IMPORTED:
        import_module(name)
    gc.freeze()  # so that no process copies all of it only to look through it as it ends
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that tell exit codes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, and they end us
    while True:
        if channel in wait([channel, listener]):
            asked, descriptors, _, _ = socket.recv_fds(channel, ASKED_BYTES_MAX, 4)
            if not asked:
                os._exit(0)
        else:
            with listener.accept()[0] as stand_in:
                asked, descriptors, _, _ = socket.recv_fds(stand_in, ASKED_BYTES_MAX, 4)
            if not asked:  # it was ended before it could ask
                continue
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    channel.close()
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, code = descriptors
    pid = os.fork()
    if pid != 0:
        for stream in streams:
            os.close(stream)
        with suppress(BrokenPipeError):
            os.write(code, f"{pid}\n".encode())
            end_with(pid, code)
            os.write(code, str(os.waitpid(pid, 0)[1]).encode())
        os._exit(0)
    os.close(code)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    words, environment, folder = json.loads(asked)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    return list(words)


def end_with(pid: int, pipe: int) -> None:
    """Wait for a process, and kill it when nobody reads from the pipe any more: whoever asked for it was killed."""
    either = select.poll()
    either.register(pipe, 0)  # that its reader has gone is told unasked
    either.register(os.pidfd_open(pid), select.POLLIN)
    if any(ready == pipe for ready, _ in either.poll()):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    *sockets, python_of_scripts = sys.argv[1:]
    first, *words = main(*(socket.socket(fileno=int(number)) for number in sockets))
    # Its end is the interpreter's: with exit codes, tracebacks and what is done at exit.
    if first == "-m":
        module, *sys.argv[1:] = words
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv[1:], sys.executable = words, python_of_scripts  # what it starts is forked, too
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")
