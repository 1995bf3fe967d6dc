"""The parts of a live route, overheard: when files are brought, what each status says, what is read again."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lading.agent.parts import LiveParts
from lading.deposit import Deposit, Read, Settled, Told
from lading.errors import AccessDenied
from lading.listing.entries import Entry


class Spying:
    """The real parts; tells before files are brought, what each status says, and of each file that is read again."""

    def __init__(
        self,
        real: LiveParts,
        before_bring: Callable[[], object] = lambda: None,
        on_status: Callable[[str], object] = lambda state: None,  # noqa: ARG005 - nobody listens
        on_read: Callable[[], object] = lambda: None,
    ) -> None:
        self._before_bring, self._on_status, self._on_read = before_bring, on_status, on_read
        self._deposit = real.deposit
        for name in ("live", "transport", "rules", "algorithms", "sources"):
            setattr(self, name, getattr(real, name))

    def deposit(self, route: str, folder: str) -> Deposit:
        """The real one, overheard."""
        return self._spied(self._deposit(route, folder))

    def _spied(self, deposit: Deposit) -> Deposit:
        bring, write, verify = deposit.bring, deposit.write, deposit.verify

        def spied_bring(root: Path, files: Sequence[Settled], told: Told) -> None:
            self._before_bring()
            bring(root, files, told)

        def spied_write(name: str, content: Path) -> None:
            write(name, content)
            if name == "STATUS.json":
                self._on_status(json.loads(content.read_text())["state"])

        def spied_verify(root: Path, entries: Iterable[Entry]) -> Iterator[Read]:
            for read in verify(root, entries):
                self._on_read()
                yield read

        deposit.bring, deposit.write, deposit.verify = spied_bring, spied_write, spied_verify  # type: ignore[method-assign]
        return deposit


class Refusing(Spying):
    """The real parts, at a source where one file cannot be read: root may read everything, so it is said here."""

    def __init__(self, real: LiveParts, name: str) -> None:
        super().__init__(real)
        self._name = name

    def _spied(self, deposit: Deposit) -> Deposit:
        bring = deposit.bring

        def refuse(root: Path, files: Sequence[Settled], told: Told) -> None:
            bring(root, [file for file in files if file.path != self._name], told)
            for file in files:
                if file.path == self._name:
                    told(file, AccessDenied(f"cannot read {root / file.path}: Permission denied"))

        deposit.bring = refuse  # type: ignore[method-assign]
        return deposit
