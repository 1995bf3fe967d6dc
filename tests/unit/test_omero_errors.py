"""What OMERO, Glacier2 and Ice can raise is all translated, and each line says what may be done next."""

from collections.abc import Iterator

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.errors import AccessDenied, LadingError, Refused, TargetUnavailable, UnexpectedFault
from omero_importer import errors
from omero_importer.errors import EXCEPTIONS, Then, from_exception, from_failed_import, meaning
from omero_importer.ice import Glacier2, Ice, omero

SERVER = "omero.example.org:4064"


def descendants(cls: type[BaseException]) -> Iterator[type[BaseException]]:
    yield cls
    for child in cls.__subclasses__():
        yield from descendants(child)


def foreign() -> list[type[BaseException]]:
    roots = (Ice.LocalException, omero.ServerError, omero.ClientError, Glacier2.CannotCreateSessionException)
    return [
        *{cls for root in roots for cls in descendants(root)},
        Glacier2.PermissionDeniedException,
        Glacier2.SessionNotExistException,
    ]


@pytest.mark.parametrize("cls", sorted(foreign(), key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_everything_foreign_has_a_line_of_its_own_kind(cls: type[BaseException]) -> None:
    assert any(issubclass(cls, known) for known, _ in EXCEPTIONS)


def test_no_line_is_hidden_by_an_earlier_one() -> None:
    known = [cls for cls, _ in EXCEPTIONS]

    hidden = [(cls, before) for at, cls in enumerate(known) for before in known[:at] if issubclass(cls, before)]

    assert not hidden


@pytest.mark.parametrize(
    ("exc", "ours", "then"),
    [
        (omero.DatabaseBusyException(backOff=50), TargetUnavailable, Then.WAIT),
        (omero.TryAgain(), TargetUnavailable, Then.WAIT),
        (omero.WrappedCreateSessionException("busy", True, 50, "x"), TargetUnavailable, Then.WAIT),
        (omero.WrappedCreateSessionException("broken", False, 0, "x"), TargetUnavailable, Then.GIVE_UP),
        (omero.RemovedSessionException(), TargetUnavailable, Then.LOG_IN_AGAIN),
        (omero.OverUsageException(), TargetUnavailable, Then.LOG_IN_AGAIN),
        (Ice.ObjectNotExistException(), TargetUnavailable, Then.JOIN_AGAIN),
        (Ice.ConnectionRefusedException(), TargetUnavailable, Then.JOIN_AGAIN),
        (Ice.ConnectionLostException(), TargetUnavailable, Then.LOOK_AGAIN),
        (Ice.InvocationTimeoutException(), TargetUnavailable, Then.LOOK_AGAIN),
        (omero.ResourceError(), TargetUnavailable, Then.GIVE_UP),
        (omero.ValidationException(), Refused, Then.GIVE_UP),
        (omero.ApiUsageException(), Refused, Then.GIVE_UP),
        (Glacier2.PermissionDeniedException("no"), AccessDenied, Then.GIVE_UP),
        (ValueError("?"), UnexpectedFault, Then.GIVE_UP),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_is_tried_again(exc: BaseException, ours: type[LadingError], then: Then) -> None:
    problem = from_exception(exc, doing="importing", server=SERVER)

    assert type(problem) is ours
    assert meaning(exc).then is then
    assert "importing" in problem.message
    assert SERVER in problem.message
    assert problem.next_command


def test_an_old_server_without_a_certificate_is_explained() -> None:
    exc = Ice.ProtocolException("SSL error: handshake failure, alert number 40")

    problem = from_exception(exc, doing="logging in", server=SERVER)

    assert isinstance(problem, AccessDenied)
    assert "ssl.ciphers" in problem.message


def test_the_servers_stack_trace_is_not_shown() -> None:
    exc = omero.InternalException("at ome.secret.Place(Place.java:1)", "java.lang.Error", "it broke\nbadly")

    problem = from_exception(exc, doing="importing", server=SERVER)

    assert "it broke badly" in problem.message
    assert "Place.java" not in str(problem.as_dict())


def test_how_long_a_server_wants_to_be_left_alone() -> None:
    assert errors.back_off_s(omero.TryAgain(backOff=1500)) == 1.5
    assert errors.back_off_s(Ice.ConnectionLostException()) == 0


@pytest.mark.parametrize("name", sorted(errors.IMPORT_FAILURES))
def test_every_way_an_import_can_fail_is_told(name: str) -> None:
    problem = from_failed_import(name, {"message": "bad\nluck"}, doing="importing a.tif", server=SERVER)

    assert isinstance(problem, TargetUnavailable | Refused)
    assert "bad luck" in problem.message


@pytest.mark.parametrize(
    ("java", "ours"),
    [("loci.formats.UnknownFormatException", Refused), ("java.lang.OutOfMemoryError", TargetUnavailable)],
)
def test_a_file_that_cannot_be_opened_is_told_from_a_server_in_trouble(java: str, ours: type[LadingError]) -> None:
    parameters = {"message": "no", "stacktrace": f"{java}: no\n\tat somewhere"}

    assert type(from_failed_import("error-on-init", parameters, doing="importing", server=SERVER)) is ours
