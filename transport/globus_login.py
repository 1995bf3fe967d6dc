"""Logs in at Globus: as a service account with a secret, or as a person who opens a link and pastes a code, once.

What a person's log-in leaves (a refresh token) is kept in one file that nobody else can read. No screen is needed here: the
link may be opened anywhere.
"""

import json
import os
import stat
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import globus_sdk
from globus_sdk.transport import RequestsTransport, RetryConfig

from lading.errors import AccessDenied, ConfigError
from transport.globus_errors import LOGIN, translating
from transport.https import demand_tls
from transport.logins import password

SERVER = "transfer.api.globus.org"
SCOPE = f"urn:globus:auth:scope:{SERVER}:all"
_MAX_BYTES = 64 << 10


@attrs.frozen(kw_only=True)
class AccountConfig:
    """Who we are at Globus. `client`: the client id, of a service account, or of a native application.

    `secret`: of the service account, as env:NAME, file:PATH or keyring:SERVICE/USER; "" for a person, who logs in once with
    `lading globus login ROUTE`. `timeout`: seconds for one answer. `auth_url`, `transfer_url`: another Globus than the public one.
    """

    client: str
    secret: str = ""
    timeout: float = 60.0
    auth_url: str = ""
    transfer_url: str = ""
    ca: Path | None = None


class Account:
    """Makes clients of Transfer. The log-in is shared, a client is for one thread."""

    def __init__(self, config: AccountConfig, store: Path) -> None:
        for key, url in (("auth_url", config.auth_url), ("transfer_url", config.transfer_url)):
            if url:
                demand_tls(url, key=key)
        self._config, self._store = config, store
        self._lock = threading.Lock()
        self._authorizer: globus_sdk.RefreshTokenAuthorizer | globus_sdk.ClientCredentialsAuthorizer | None = None
        self._mine = threading.local()

    def __repr__(self) -> str:
        return f"Account({self._config.client!r})"

    def client(self) -> globus_sdk.TransferClient:
        """This thread's client. Raises AccessDenied, Unreachable."""
        found: globus_sdk.TransferClient | None = getattr(self._mine, "client", None)
        if found is None:
            with self._lock, translating("cannot log in at Globus"):
                if self._authorizer is None:
                    self._authorizer = self._login()
            found = globus_sdk.TransferClient(
                authorizer=self._authorizer,
                base_url=self._config.transfer_url or None,
                transport=self._transport(),
                retry_config=_patient(),
            )
            self._mine.client = found
        return found

    def login(self, paste: Callable[[str], str], consents: Sequence[str] = ()) -> None:
        """A person's log-in: `paste` shows the link and returns the code. `consents`: ids of collections (data_access).

        Raises ConfigError for a service account, AccessDenied, Unreachable.
        """
        if self._config.secret:
            raise ConfigError("this route logs in as a service account, with its secret: nobody has to log in")
        person = self._person()
        scope = SCOPE
        if consents:
            wanted = " ".join(f"*https://auth.globus.org/scopes/{one}/data_access" for one in consents)
            scope = f"{SCOPE}[{wanted}]"
        person.oauth2_start_flow(scope, refresh_tokens=True)
        code = paste(person.oauth2_get_authorize_url()).strip()
        with translating("cannot log in at Globus"):
            answer = person.oauth2_exchange_code_for_tokens(code)
        tokens = answer.by_resource_server[SERVER]
        write_secret(self._store, json.dumps({self._config.client: tokens["refresh_token"]}))

    def _login(self) -> "globus_sdk.RefreshTokenAuthorizer | globus_sdk.ClientCredentialsAuthorizer":
        config = self._config
        if config.secret:
            secret = password(config.secret, f"the Globus client {config.client}")
            service = globus_sdk.ConfidentialAppAuthClient(
                config.client,
                secret,
                base_url=config.auth_url or None,
                transport=self._transport(),
                retry_config=_patient(),
            )
            return globus_sdk.ClientCredentialsAuthorizer(service, SCOPE)
        return globus_sdk.RefreshTokenAuthorizer(self._refresh_token(), self._person())

    def _person(self) -> globus_sdk.NativeAppAuthClient:
        return globus_sdk.NativeAppAuthClient(
            self._config.client,
            base_url=self._config.auth_url or None,
            transport=self._transport(),
            retry_config=_patient(),
        )

    def _refresh_token(self) -> str:
        found = read_secret(self._store)
        try:
            token = json.loads(found or "{}").get(self._config.client)
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str):
            raise AccessDenied(
                f"nobody has logged in at Globus for the client {self._config.client} (login-missing)",
                next_command=LOGIN,
            )
        return token

    def _transport(self) -> RequestsTransport:
        return RequestsTransport(verify_ssl=self._config.ca, http_timeout=self._config.timeout)


def token_store(state: Path, account: AccountConfig) -> Path:
    """Where a person's log-in is kept."""
    return state / "globus" / f"{uuid.uuid5(uuid.NAMESPACE_OID, account.client)}.json"


def write_secret(path: Path, content: str) -> None:
    """A file that nobody else can read, at no time; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_secret(path: Path) -> str | None:
    """What `write_secret` wrote, or None. Raises AccessDenied when others can read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise AccessDenied(f"cannot read {path}: {exc.strerror}", next_command="lading doctor") from exc
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessDenied(f"{path} can be read by others; nothing was sent", next_command=f"chmod 600 {path}")
    return content.decode("utf-8", "replace")


def _patient() -> RetryConfig:
    # A few passing 503s; longer troubles are for those who repeat the whole call.
    return RetryConfig(max_retries=2, max_sleep=1)
