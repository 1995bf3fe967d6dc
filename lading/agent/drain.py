"""Carries what the outbox holds and ends: the process that `lading send` leaves behind when no agent runs."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from lading import log
from lading.agent.edge import foreseen
from lading.agent.loop import drain
from lading.agent.parts import DEFAULT_FACTORY, factory
from lading.config import load
from lading.errors import LadingError


def main() -> int:
    """`python -m lading.agent.drain --config FILE`. Exit code 0, or the error's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--parts", default=DEFAULT_FACTORY, help="module:function that makes the parts")
    chosen = parser.parse_args()
    log.set_up()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with foreseen("carrying in the background"):
            config = load(chosen.config)
            drain(config, factory(chosen.parts)(config), stop=stop)
    except LadingError as exc:
        sys.stderr.write(f"{exc.code}: {exc.message}\n")
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
