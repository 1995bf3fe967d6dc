"""One line per event, delivery id first, for the operator at 3 a.m."""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger


def set_up(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Log from `level` on to `stream` (standard error): `time level delivery event key=value …`.

    Procrastinate's own chatter is dropped.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _line,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    # It reports every failed job with a traceback; what ended a worker is said once, by the worker.
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    at, level = event.pop("timestamp"), event.pop("level")
    delivery, what = event.pop("delivery", "-"), event.pop("event")
    rest = " ".join(f"{key}={_word(value)}" for key, value in event.items() if value not in ("", None))
    return f"{at} {level} {delivery} {what} {rest}".rstrip()


def _word(value: object) -> str:
    text = str(value)
    # Names of files may hold anything, line ends and terminal sequences included.
    return text if text.isascii() and text.isprintable() and " " not in text else repr(text)
