"""Ends what is left of a Triton once the gateway that started it is gone.

Standard input is a pipe of which the gateway holds the only other end, so that it ends with the
gateway, however that dies. Standard output gets a byte each second, by which the gateway knows that
this process runs. Arguments: the variable, as NAME=value, that every process of this Triton has in its
environment, and the prefix of its files in /dev/shm.
"""

import os
import select
import signal
import sys
import time

TRIES = 500  # each 20 ms


def marked(mark: bytes) -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = file.read()
        except OSError:  # another user's, or gone meanwhile
            continue
        if mark in environment.split(b"\0"):
            found.append(int(name))
    return found


def main(mark: str, prefix: str) -> None:
    # A service manager that ends a whole group says so to this process too, which must be the last.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(1, False)  # a gateway that is stopped reads nothing
    while not select.select([0], [], [], 1)[0]:
        try:
            os.write(1, b".")
        except BlockingIOError:
            pass
        except BrokenPipeError:
            break
    for _ in range(TRIES):
        pids = marked(os.fsencode(mark))
        if not pids:
            break
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)  # ends a stopped process too
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    for name in os.listdir("/dev/shm"):
        if name.startswith(prefix):
            os.unlink(f"/dev/shm/{name}")


main(*sys.argv[1:])
