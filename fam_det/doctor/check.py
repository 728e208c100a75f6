"""A check runs in a process of its own, which may crash, write what it likes or never end."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

from fam_det.doctor.fact import GAP, Fact

PATIENCE = 5.0  # seconds for a process to die


class Check(NamedTuple):
    """Something to look for.

    Args:
        name: of what is looked for.
        find: a function at the top of a module: returns facts, or raises.
        advice: what to do where it raises, crashes or does not end.
        state: of the fact that then stands in its place.
    """

    name: str
    find: Callable[[], list[Fact]]
    advice: str
    state: str = GAP


def run_check(check: Check, deadline: float) -> list[Fact]:
    """The facts of a check, whatever becomes of it.

    Args:
        check: to run.
        deadline: on the clock of ``time.monotonic``, in seconds.
    """
    # Spawned, not forked: the child shares only this interpreter's flags and its path.
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, check.find), daemon=True)
    process.start()
    sender.close()
    try:
        if receiver.poll(max(0.0, deadline - time.monotonic())):
            answer: list[Fact] | str = receiver.recv()
        else:
            answer = "no answer in time"
    except EOFError:
        process.join(PATIENCE)
        answer = f"crashed: {_ending(process.exitcode)}"
    finally:
        receiver.close()
        process.kill()
        process.join(PATIENCE)
    if isinstance(answer, str):
        return [Fact(check.state, check.name, answer, check.advice)]
    return answer


def _answer(sender: Connection, find: Callable[[], list[Fact]]) -> None:
    """In the child: send facts, or in one line why there are none."""
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    try:
        sender.send(find())
    except ModuleNotFoundError as error:
        sender.send(f"{error.name} is not installed")
    except BaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sender.send(f"{type(error).__name__}: {lines[0] if lines else 'without a message'}")


def _ending(exit_code: int | None) -> str:
    """How a process ended, in words."""
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit status {exit_code}"
