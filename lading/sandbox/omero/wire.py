"""Ice: the communicator, the adapter, and how a call reaches the method that answers it.

Two traps of IcePy are dealt with here, once. The generated skeletons define every operation as a stub that does nothing,
so that one left out would let its caller wait for ever: `servant` makes it raise instead. And most of OMERO's operations
are asynchronous dispatches (`get_async(cb, …)`): `servant` lets them be written as plain methods.
"""

import ctypes
import inspect
import logging
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import Glacier2
import Ice
import omero
import omero.ObjectFactoryRegistrar
import omero.rtypes

from lading.sandbox.omero import errors

LOG = logging.getLogger("lading.sandbox.omero")
HOST = "127.0.0.1"
MESSAGE_KIB = 65_536
"""The server's limit of one message; a larger one closes the connection, as with OMERO."""

_C = TypeVar("_C", bound=type)


@dataclass(slots=True)  # not frozen: that would triple what it costs to make one, for every call
class Call:
    """One call on its way: "IQuery.get", the servant that answers it, its arguments without the Ice.Current."""

    label: str
    servant: "Servant"
    arguments: tuple[object, ...]
    current: Ice.Current


class NoAnswer(Exception):
    """Raised by a hook: the call's connection is cut, and nobody hears of its result."""


class Gate(Protocol):
    """Stands before every call."""

    def before(self, call: Call) -> None:
        """Raises what the client shall get instead of an answer."""

    def around(self, call: Call) -> AbstractContextManager[None]:
        """While it is carried out."""

    def after(self, call: Call) -> None:
        """Raises what the client shall get though it was carried out."""


class Servant:
    """What answers calls. `gate` sees each of them first; those that `uses_database` hold a connection meanwhile."""

    gate: Gate
    uses_database: ClassVar[bool] = False

    def closed(self) -> None:
        """The session is over: let go of everything."""


@dataclass(frozen=True)
class Listening:
    """Where to listen (loopback only), -1 for not at all, and the TLS identity as PEM files."""

    tcp_port: int
    ssl_port: int = -1
    certificate: str = ""
    key: str = ""

    @property
    def endpoints(self) -> str:
        """As Ice writes them."""
        ends = [
            f"{kind} -h {HOST} -p {port}"
            for kind, port in (("tcp", self.tcp_port), ("ssl", self.ssl_port))
            if port >= 0
        ]
        return ":".join(ends)


class Wire:
    """One communicator with one adapter, on which everything lives."""

    def __init__(self, listening: Listening, *, threads: int = 100) -> None:
        """`threads`: how many calls are served at once; OMERO's own limit. Raises Ice.SocketException (port taken)."""
        self.communicator = Ice.initialize(_initial(listening, threads))
        omero.ObjectFactoryRegistrar.registerObjectFactory(self.communicator, _NoClient())
        for factory in omero.rtypes.ObjectFactories.values():
            factory.register(self.communicator)
        self.adapter = self.communicator.createObjectAdapter("OMERO")

    def activate(self) -> None:
        """Answer calls from here on."""
        self.adapter.activate()

    def ports(self) -> dict[str, int]:
        """The ports that were really taken, by "tcp" and "ssl"."""
        names = {1: "tcp", 2: "ssl"}
        infos = [endpoint.getInfo() for endpoint in self.adapter.getEndpoints()]
        return {names[info.type()]: info.port for info in infos if info.type() in names}

    def add(self, servant: Servant, name: str, category: str) -> Ice.ObjectPrx:
        """Serve it under this identity."""
        return self.adapter.add(servant, Ice.Identity(name, category))

    def add_anonymous(self, servant: Servant, category: str) -> Ice.ObjectPrx:
        """Serve it under a name of its own."""
        return self.add(servant, str(uuid.uuid4()), category)

    def remove(self, identity: Ice.Identity) -> None:
        """Calls to it get ObjectNotExistException from here on. Nothing happens when it is gone already."""
        with suppress(Ice.NotRegisteredException, Ice.ObjectAdapterDeactivatedException):
            self.adapter.remove(identity)

    def proxy(self, name: str, category: str) -> Ice.ObjectPrx:
        """A proxy to an identity, served or not."""
        return self.adapter.createProxy(Ice.Identity(name, category))

    def close(self, patience: float = 2.0) -> None:
        """End everything. A call that nobody answers any more would hold Ice back for ever: it is given up on."""
        ending = threading.Thread(target=self.communicator.destroy, daemon=True)
        ending.start()
        ending.join(patience)


class _LastingThreads(Ice.ThreadNotification):
    """Python knows each of Ice's threads as long as the thread lives.

    By itself it knows them for one call at a time: its memory for a thread is asked of the system and given back every time.
    """

    def start(self) -> None:
        """A thread of Ice's begins."""
        ctypes.pythonapi.PyGILState_Ensure()

    def stop(self) -> None:
        """It ends. 0: it held the interpreter when `start` asked for it, and holds it now."""
        ctypes.pythonapi.PyGILState_Release(0)


class _NoClient:
    """OMERO's factory of Details objects asks for a client; a server has none."""

    def getSession(self, blocking: bool = True) -> None:
        return None


def _initial(listening: Listening, threads: int) -> Ice.InitializationData:
    wanted = {
        "Ice.MessageSizeMax": str(MESSAGE_KIB),
        "Ice.ThreadPool.Server.Size": "10",
        "Ice.ThreadPool.Server.SizeMax": str(threads),
        "Ice.ThreadPool.Server.SizeWarn": "0",
        "Ice.ThreadPool.Client.Size": "2",
        "Ice.ThreadPool.Client.SizeMax": "50",
        "Ice.ACM.Server.Timeout": "0",
        "Ice.Warn.Connections": "0",
        "Ice.Warn.Dispatch": "0",
        "OMERO.Endpoints": listening.endpoints,
    }
    if listening.ssl_port >= 0:
        wanted |= {
            "Ice.Plugin.IceSSL": "IceSSL:createIceSSL",
            "IceSSL.VerifyPeer": "0",
            "IceSSL.CertFile": listening.certificate,
            "IceSSL.KeyFile": listening.key,
            "IceSSL.Protocols": "TLS1_2,TLS1_3",
        }
    data = Ice.InitializationData()
    data.threadHook = _LastingThreads()
    data.properties = Ice.createProperties()
    for name, value in wanted.items():
        data.properties.setProperty(name, value)
    return data


# -- how a call reaches its method ----------------------------------------------------------------------------------


def servant(cls: _C) -> _C:
    """Class decorator: complete a servant so that every operation of its Slice interface answers or raises.

    Operations are written as plain methods whose last parameter is the Ice.Current; the return annotation must be None
    exactly where the Slice operation is void.
    """
    for attribute in dir(cls):
        operation = attribute.removeprefix("_op_")
        if operation == attribute or operation.startswith("ice_"):
            continue
        skeleton = next(base for base in cls.__mro__ if attribute in base.__dict__)
        label = f"{skeleton.__name__}.{operation}"
        method = _written(cls, operation)
        if hasattr(skeleton, operation + "_async") or _is_asynchronous(cls, operation):
            setattr(cls, operation + "_async", _asynchronous(method or _refusing(label), label))
        else:
            setattr(cls, operation, _direct(method or _refusing(label), label))
    return cls


def _written(cls: type, operation: str) -> Callable[..., object] | None:
    """The method as we wrote it, in the class or a base of it; never the generated stub."""
    for base in cls.__mro__:
        method = base.__dict__.get(operation)
        if method is not None and base.__module__.startswith("lading."):
            written: Callable[..., object] = getattr(method, "written", method)
            return written
    return None


def _is_asynchronous(cls: type, operation: str) -> bool:
    return any(operation + "_async" in base.__dict__ for base in cls.__mro__)


def _refusing(label: str) -> Callable[..., object]:
    def refuse(self: Servant, *_: object) -> object:
        LOG.warning("not in the stand-in: %s", label)
        raise errors.internal("NotInStandIn", f"{label} is not in the stand-in")

    return refuse


def _asynchronous(method: Callable[..., object], label: str) -> Callable[..., None]:
    void = inspect.signature(method).return_annotation is None

    def dispatch(self: Servant, answer: Ice.Object, *arguments: object) -> None:
        try:
            result = _carried_out(self, method, label, arguments)
        except NoAnswer:
            return
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client must be told
            answer.ice_exception(_translated(error, label))
            return
        if void:
            answer.ice_response()
        else:
            answer.ice_response(result)

    return dispatch


def _direct(method: Callable[..., object], label: str) -> Callable[..., object]:
    def dispatch(self: Servant, *arguments: object) -> object:
        try:
            return _carried_out(self, method, label, arguments)
        except NoAnswer:
            raise Ice.UnknownException("the connection was cut") from None
        except Exception as error:
            raise _translated(error, label) from error

    dispatch.written = method  # type: ignore[attr-defined]  # so that a subclass is completed from the original
    return dispatch


def _carried_out(self: Servant, method: Callable[..., object], label: str, arguments: tuple[object, ...]) -> object:
    call = Call(label, self, arguments[:-1], arguments[-1])
    try:
        self.gate.before(call)
        with self.gate.around(call):
            result = method(self, *arguments)
        self.gate.after(call)
    except NoAnswer:
        call.current.con.close(True)
        raise
    return result


def _translated(error: Exception, label: str) -> Exception:
    """What a client of this operation understands."""
    translated: Exception
    if isinstance(error, omero.ServerError):
        error.serverExceptionClass = error.serverExceptionClass or type(error).__name__
        translated = error
    elif isinstance(error, Ice.UserException | Ice.LocalException):
        translated = error
    elif isinstance(error, errors.Unsupported):
        LOG.warning("%s: %s", label, error)
        translated = errors.api_usage(str(error))
    elif isinstance(error, OSError):
        translated = errors.resource(str(error))
    else:
        LOG.error("%s failed", label, exc_info=error)
        translated = errors.internal(type(error).__name__, str(error))
    if label.startswith(("Router", "SessionManager")) and isinstance(translated, omero.ServerError):
        return _not_logged_in(translated.message)
    return translated


def _not_logged_in(reason: str) -> Exception:
    refusal: Exception = Glacier2.CannotCreateSessionException(reason)
    return refusal
