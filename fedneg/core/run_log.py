"""The log of a run: what the console said, with time and level.

Where it goes is Python's logging and Hydra's: ``hydra.job_logging`` (conf/config.yaml)
makes ``fedneg.log`` in the run's folder, for every job of a sweep its own. Under
`flwr run`, where Hydra makes no folder, `log_into` does the same.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from fedneg.core.exits import LogFile, mistake_of

LOG = logging.getLogger("fedneg")
# Where nobody keeps a log, Python would print warnings, which the console has said.
LOG.addHandler(logging.NullHandler())
FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"
_Raised = (
    tuple[type[BaseException], BaseException, TracebackType | None]
    | tuple[None, None, None]
)


def visible(text: str) -> str:
    """Return text without characters that would steer a terminal or break a line."""
    return "".join(c if c.isprintable() else "?" for c in text)


class PlainFormatter(logging.Formatter):
    """One line a message, whatever is in it; the traceback of a defect has its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line, without escape codes."""
        record.message = visible(" ".join(record.message.splitlines()))
        return super().formatMessage(record)

    def formatException(self, ei: _Raised) -> str:  # noqa: N802
        """Return a traceback, without escape codes."""
        return "\n".join(map(visible, super().formatException(ei).splitlines()))


def log_failure(error: BaseException) -> None:
    """Log what ended a run: a line for a mistake, a traceback for a defect."""
    if mistake := mistake_of(error):
        LOG.error("%s", mistake)
    elif isinstance(error, KeyboardInterrupt):
        LOG.error("interrupted")
    elif not isinstance(error, SystemExit):
        LOG.critical("a defect of fedneg", exc_info=error)


@contextmanager
def log_into(folder: Path) -> Iterator[None]:
    """Keep a log in a folder, with Flower's warnings, and what ended the run."""
    handler = LogFile(folder / "fedneg.log")
    handler.setFormatter(PlainFormatter(FORMAT))
    loggers = (LOG, logging.getLogger("flwr"))
    level = LOG.level
    LOG.setLevel(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        log_failure(error)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        LOG.setLevel(level)
        handler.close()
