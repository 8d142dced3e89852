"""Ties a process to this one: it ends when this one does, even by SIGKILL, which no clean-up survives."""

import os
import signal
import subprocess

# It reads until the other end of its standard input is gone, which is held here alone.
WATCHING = 'read -r _; kill -s "$1" "$0"'


class Tether:
    """Sends a process a signal when this one ends; until `release`."""

    def __init__(self, pid: int, ending: signal.Signals) -> None:
        watched, self._held = os.pipe()  # neither is inherited by other processes
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCHING, str(pid), ending.name.removeprefix("SIG")],
            stdin=watched,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what ends this process may end its whole group
        )
        os.close(watched)

    def release(self) -> None:
        """Stop watching, before the process is reaped: afterwards its pid may be another one's."""
        self._watcher.kill()
        self._watcher.wait()
        os.close(self._held)
