"""Errors of ours on their way from one process to the other: nothing of them is lost."""

from collections.abc import Iterator

from lading.errors import Corrupted, LadingError, UnexpectedFault


def as_ours(exc: BaseException, doing: str) -> LadingError:
    """`exc` itself, or the UnexpectedFault that stands for it."""
    if isinstance(exc, LadingError):
        return exc
    return UnexpectedFault(f"{doing} failed: {type(exc).__name__}: {exc}", next_command="lading doctor")


def told(exc: LadingError) -> dict[str, object]:
    """All of it, for JSON."""
    paths = list(exc.paths) if isinstance(exc, Corrupted) else []
    return {
        "code": exc.code,
        "message": exc.message,
        "safe": exc.safe,
        "next_command": exc.next_command,
        "paths": paths,
    }


def error_of(said: object) -> LadingError:
    """The error that `told` was told of. An unknown one is an UnexpectedFault."""
    if not isinstance(said, dict):
        return UnexpectedFault("the process that helped does not say what failed", next_command="lading doctor")
    kind = next((one for one in _kinds(LadingError) if one.code == said.get("code")), UnexpectedFault)
    message, safe, following = (str(said.get(key, "")) for key in ("message", "safe", "next_command"))
    if issubclass(kind, Corrupted):
        return kind(message, paths=[str(path) for path in said.get("paths", ())], safe=safe, next_command=following)
    return kind(message, safe=safe, next_command=following)


def _kinds(kind: type[LadingError]) -> Iterator[type[LadingError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _kinds(one)
