"""Boundaries at which a process kills itself: before and after every call of some methods."""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


def die_at(fatal: int, steps: Iterable[tuple[type, str]]) -> Callable[[], int]:
    """From now on the process kills itself (SIGKILL) at that boundary; gives what tells how many it passed.

    Args:
        fatal: number of the boundary, from 0.
        steps: methods, each a class and a name.
    """
    passed = 0

    def boundary() -> None:
        nonlocal passed
        if passed == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    for owner, name in steps:
        original = getattr(owner, name)

        def guarded(self, *args, original=original):
            boundary()
            result = original(self, *args)
            boundary()
            return result

        setattr(owner, name, guarded)
    return lambda: passed


def serve_forks(main: Callable[..., int]) -> None:
    """For every line of arguments forks a process that runs `main`, and says how it ended and what it returned."""
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writing, json.dumps(main(*json.loads(line))).encode())
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as answer:
            said = answer.read()
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said and json.loads(said)]), flush=True)


@contextmanager
def forking(module: str) -> Iterator[Callable[..., tuple[int, int | str]]]:
    """Runs of a module that serves forks: Python starts and imports once for all of them, not for each."""
    with subprocess.Popen(
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:

        def run(*arguments: object) -> tuple[int, int | str]:
            server.stdin.write(json.dumps(arguments) + "\n")
            server.stdin.flush()
            status, passed = json.loads(server.stdout.readline())
            return status, passed

        yield run
