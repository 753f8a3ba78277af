"""Python processes of this program: they import what it does, and end when it does."""

import importlib
import os
import sys
import threading
import time

# Run with -P, which keeps the working folder off the path: a user's file there may be
# called as one of our modules is, or as one of Python's. Paths are words of the command
# line, since $PYTHONPATH cannot hold those with a colon and would reach grandchildren.
_BEGIN = (
    "import sys; count = int(sys.argv[1]); sys.path[:] = sys.argv[2 : 2 + count]; "
    "del sys.argv[1 : 2 + count]; from fedneg.core.children import begin; begin()"
)
# How often a child looks whether its parent is still there.
LOOK_S = 0.2


def python_command(module: str, *, outlives: bool = False) -> list[str]:
    """Return the command of a child process that runs a module's `main()`.

    Arguments may be appended; the child finds them in ``sys.argv[1:]``. Its import path
    is this process's, entry by entry. Unless it `outlives` this process, it ends at
    most a second after that has ended, in whatever way.
    """
    path = [str(entry) or os.getcwd() for entry in sys.path]
    command = [sys.executable, "-P", "-c", _BEGIN, str(len(path)), *path]
    return [*command, module, "0" if outlives else str(os.getpid())]


def begin() -> None:
    """Run the module that `python_command` named: the life of a child process."""
    module, parent = sys.argv[1:3]
    del sys.argv[1:3]
    if int(parent):
        end_with(int(parent))
    importlib.import_module(module).main()


def end_with(parent: int) -> None:
    """Let a thread end this process as soon as `parent` is no longer its parent.

    A process whose parent has ended is given to another one. Looked at like this,
    it does not matter who else holds a pipe of the parent's, which of the parent's
    threads started the child, or whether the parent had ended before the child began;
    a kernel of torch releases the interpreter's lock, so that the thread has its turn.
    """

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=look, name="end with the parent", daemon=True).start()
