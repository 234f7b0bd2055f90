"""A child process that is to run as long as its parent: started again when it ends, with a growing pause where it fails."""

import subprocess
import time
from collections.abc import Callable

# Who lived so long has not failed at its start.
_SETTLED_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# How long it may take to end when it is asked to, and between two times of asking.
_PATIENCE_SECONDS, _ASK_AGAIN_SECONDS = 10.0, 1.0


class Kept:
    """One child, started by the first `look`. One that ends well makes room for a fresh one at once."""

    def __init__(
        self, name: str, start: Callable[[], "subprocess.Popen[bytes]"], say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._name, self._start, self._say, self._clock = name, start, say, clock
        self._child: subprocess.Popen[bytes] | None = None
        self._pause, self._begun, self._next = 0.0, 0.0, clock()

    def look(self) -> None:
        """Note whether the child has ended, and start it when its time has come."""
        if self._child and self._child.poll() is not None:
            self._ended(self._child.returncode)
        if self._child is None and self._clock() >= self._next:
            self._child, self._begun = self._start(), self._clock()

    def _ended(self, code: int) -> None:
        self._child, settled = None, self._clock() - self._begun >= _SETTLED_SECONDS
        if settled:
            self._pause = 0.0
        if not (settled and code == 0):
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
            self._say(f"{self._name} ended ({_how(code)}); it is started again in {self._pause:.0f} s")
        self._next = self._clock() + self._pause

    def ask_to_end(self) -> None:
        """Tell the child to end, without waiting for it."""
        if self._child:
            self._child.terminate()

    def end(self) -> None:
        """End the child: it is asked until it ends, and killed when patience does."""
        until = self._clock() + _PATIENCE_SECONDS
        while self._child and self._child.poll() is None:
            if self._clock() >= until:
                self._child.kill()
            else:
                self._child.terminate()
            try:
                self._child.wait(_ASK_AGAIN_SECONDS)
            except subprocess.TimeoutExpired:
                continue


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
