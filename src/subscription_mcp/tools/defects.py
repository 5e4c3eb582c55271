"""What is a defect of ours, and what only passes through: one judgement for every surface."""

import asyncio


def is_cancellation(error: BaseException) -> bool:
    """Whether the client left or the server stops: that has to go on its way.

    Everything else is a defect, also a SystemExit or KeyboardInterrupt of some library, which would end the
    process, and a CancelledError nobody asked for, which would end a session.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, GeneratorExit)
