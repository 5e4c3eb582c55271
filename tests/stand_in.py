"""Stands in for a process that is forked elsewhere, where a client insists on starting its server itself: it hands its
streams over and gets the exit code. Run on its own, with as little of Python as it needs: `forked.command` tells how.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any


def main(address: str, *words: str) -> None:
    read, write = os.pipe()
    asked = json.dumps([words, dict(os.environ), str(Path.cwd())]).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(address)
        socket.send_fds(channel, [asked], [0, 1, 2, write])
    for handed_over in (0, 1, 2, write):  # that these end is seen when the other process ends them
        os.close(handed_over)
    with os.fdopen(read) as told:
        pid = int(told.readline())

        def pass_on(number: int, frame: Any) -> None:
            os.kill(pid, number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        code = os.waitstatus_to_exitcode(int(told.read()))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
