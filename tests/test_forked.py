"""That a process which is forked for a test is like one that was started from nothing."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests import forked
from tests.harness import STOP_WITHIN_SECONDS, TODAY, Place

pytestmark = pytest.mark.skipif(not forked.IS_POSSIBLE, reason="every process is started from nothing here")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("plans", "list", "--json"),
        ("usage",),
        ("no-such-command",),
        ("plans", "show", "no-such-plan"),
    ],
    ids=" ".join,
)
def test_a_command_says_the_same_and_ends_the_same(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    place = Place(tmp_path, clock=TODAY)
    stood_in = subprocess.run(
        [*place.startable(), *arguments],
        env=place.environment(),
        cwd=place.folder,
        capture_output=True,
        text=True,
    )
    one, *others = place.run(*arguments, before_exec=os.getpid), place.run(*arguments), stood_in
    for other in others:
        assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_a_server_ends_by_the_signal_it_is_sent(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for number, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        with place.serving() as server:
            assert isinstance(server.process, forked.Forked) and server.process.poll() is None
            server.process.send_signal(number)
            assert server.ended() == code


def test_a_server_somebody_stands_in_for_ends_by_the_signal_and_with_who_is_killed(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for number, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        with subprocess.Popen(
            [*place.startable(), "serve", "--port", "0"],
            env=place.environment(),
            cwd=place.folder,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert any(line.startswith("MCP ") for line in process.stderr)
            process.send_signal(number)
            assert process.wait(STOP_WITHIN_SECONDS) == code
            process.stderr.read()  # to its end: the server has gone, too


def test_a_command_reads_what_it_is_given(tmp_path: Path) -> None:
    place = Place(tmp_path)
    done = place.run("token", "inspect", "--json", standard_input=place.token("bella"))
    assert json.loads(done.stdout)["claims"]["sub"] == "bella", done
