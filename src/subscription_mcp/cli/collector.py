"""When the garbage collector looks, and at what.

A server holds some hundred thousand objects from its start to its end: modules, models, plans. Python would look
through them dozens of times while they are made, and then again every few thousand calls, while every caller waits a
tenth of a second for it.
"""

import gc

NEW_OBJECTS_MAX = 10_000


def look_later() -> None:
    """While a server starts, nearly everything that is made stays."""
    gc.disable()


def spare_what_stays() -> None:
    """What there is now is never looked through again, and what comes is looked through less often."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS_MAX, *gc.get_threshold()[1:])
    gc.enable()
