"""Globus Auth: a page with a code to paste, tokens for a code (PKCE), for a refresh token, or for a service's secret."""

import base64
import hashlib
import hmac
import re
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from lading.sandbox.globus.world import ApiError, Document, World, now_text

TRANSFER = "transfer.api.globus.org"
TRANSFER_ALL = f"urn:globus:auth:scope:{TRANSFER}:all"
_LIFE_S = 172_800
_SCOPE = re.compile(r"[^\s\[\]]+(?:\[[^\]]*\])?")


@dataclass(frozen=True)
class _Token:
    server: str
    expires: float


class Tokens:
    """Who may come in. `services`: client id → secret. `forget` makes every access token invalid."""

    def __init__(self, world: World, services: dict[str, str]) -> None:
        self._world, self.services = world, services
        self._codes: dict[str, dict[str, str]] = {}
        self._access: dict[str, _Token] = {}
        self._refresh: dict[str, str] = {}

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        """Made when somebody asks for it: it takes a while."""
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def forget(self, *, also_refresh: bool = False) -> None:
        """Every access token is over; and the log-ins too, if asked."""
        self._access.clear()
        if also_refresh:
            self._refresh.clear()

    def demand(self, header: str, server: str) -> None:
        """Raises 401 unless the header carries a token for `server`."""
        token = self._access.get(header.removeprefix("Bearer "))
        if token is None or token.server != server or token.expires < time.time():
            raise ApiError(401, "AuthenticationFailed", "Token is not valid")

    def page(self, query: dict[str, str]) -> str:
        """What a browser shows to somebody who agrees to everything."""
        code = uuid.uuid4().hex[:30]
        self._codes[code] = query
        return f"<html>Native App Authorization Code: <code>{code}</code></html>"

    def discovery(self, base: str) -> Document:
        """OpenID's own description."""
        oauth = f"{base}/v2/oauth2"
        return {
            "issuer": "https://auth.globus.org",
            "jwks_uri": f"{base}/jwk.json",
            "id_token_signing_alg_values_supported": ["RS512"],
            "authorization_endpoint": f"{oauth}/authorize",
            "token_endpoint": f"{oauth}/token",
        }

    def keys(self) -> Document:
        """The public key that signs id tokens."""
        public = cast("Document", jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True))
        return {"keys": [{**public, "alg": "RS512", "use": "sig"}]}

    def grant(self, form: dict[str, str], authorization: str) -> Document:
        """Answer a request for tokens."""
        kind = form.get("grant_type")
        if kind == "authorization_code":
            asked = self._codes.pop(form.get("code", ""), None)
            if asked is None or not _proves(form.get("code_verifier", ""), asked.get("code_challenge")):
                raise ApiError(401, "invalid_grant", "this code is not valid", error="invalid_grant")
            return self._issued(asked["scope"], asked["client_id"], offline=asked.get("access_type") == "offline")
        if kind == "refresh_token":
            token = form.get("refresh_token", "")
            if token not in self._refresh:
                raise ApiError(400, "invalid_grant", "this refresh token is not valid", error="invalid_grant")
            return self._issued(self._refresh[token], form.get("client_id", "")) | {"refresh_token": token}
        if kind == "client_credentials":
            client = self._service(authorization)
            return self._issued(form["scope"], client)
        raise ApiError(400, "unsupported_grant_type", f"{kind!r}", error="unsupported_grant_type")

    def _service(self, authorization: str) -> str:
        try:
            client, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        except ValueError:
            client, secret = "", ""
        known = self.services.get(client)
        if known is None or not hmac.compare_digest(known, secret):
            raise ApiError(401, "invalid_client", "unknown client or wrong secret", error="invalid_client")
        return client

    def _issued(self, scopes: str, client: str, *, offline: bool = False) -> Document:
        by_server: dict[str, list[str]] = {}
        for scope in _SCOPE.findall(scopes):
            top = scope.split("[")[0]
            by_server.setdefault(_server_of(top), []).append(top)
            self._world.consents |= {part.split("/")[-2] for part in re.findall(r"https://\S+?/data_access", scope)}
        tokens = [self._token(server, " ".join(mine), offline=offline) for server, mine in by_server.items()]
        first: Document = {**tokens[0], "other_tokens": tokens[1:], "state": "_default"}
        if any("openid" in mine for mine in by_server.values()):
            first["id_token"] = self._id_token(client)
        return first

    def _token(self, server: str, scope: str, *, offline: bool) -> Document:
        access = "At" + uuid.uuid4().hex
        self._access[access] = _Token(server, time.time() + _LIFE_S)
        answer: Document = {"access_token": access, "scope": scope, "expires_in": _LIFE_S}
        answer |= {"token_type": "Bearer", "resource_server": server}
        if offline:
            refresh = "Rt" + uuid.uuid4().hex
            self._refresh[refresh] = scope
            answer["refresh_token"] = refresh
        return answer

    def _id_token(self, client: str) -> str:
        now = int(time.time())
        claims = {"sub": self._world.identity, "iss": "https://auth.globus.org", "aud": client, "exp": now + 3600}
        claims |= {"iat": now, "at_hash": "x", "preferred_username": "lab@example.org", "name": "Lab"}
        return jwt.encode(claims, self._key, algorithm="RS512")

    def consents(self) -> Document:
        """What the person has agreed to."""
        scopes = [TRANSFER_ALL, *(f"https://auth.globus.org/scopes/{one}/data_access" for one in self._world.consents)]
        now = now_text()
        same = {"created": now, "updated": now, "last_used": now, "status": "approved", "allows_refresh": True}
        same |= {"atomically_revocable": False, "auto_approved": False, "effective_identity": self._world.identity}
        listed = [
            {**same, "id": n, "scope_name": name, "scope": str(uuid.uuid4()), "client": str(uuid.uuid4())}
            | {"dependency_path": [1] if n == 1 else [1, n]}
            for n, name in enumerate(scopes, 1)
        ]
        return {"consents": listed}

    def new_client(self) -> Document:
        """The `globus` command makes itself a client when somebody logs in."""
        client = str(uuid.uuid4())
        secret = uuid.uuid4().hex
        made: Document = {"id": client, "name": "cli", "client_type": "public_installed_client", "scopes": []}
        made |= {"redirect_uris": [], "visibility": "private", "grant_types": ["authorization_code"], "fqdns": []}
        made |= {"links": {"privacy_policy": None, "terms_and_conditions": None}, "parent_client": None}
        made |= {"preselect_idp": None, "prompt_for_named_grant": True, "required_idp": None, "project": None}
        made |= {"userinfo_from_effective_identity": True}
        credential = {"id": str(uuid.uuid4()), "secret": secret, "name": "c", "client": client, "created": now_text()}
        return {"client": made, "included": {"client_credential": credential}}


def _proves(verifier: str, challenge: str | None) -> bool:
    made = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return challenge is None or hmac.compare_digest(made, challenge)


def _server_of(scope: str) -> str:
    for pattern in (r"urn:globus:auth:scope:([\w.]+):", r"https://auth.globus.org/scopes/([^/]+)/"):
        if found := re.match(pattern, scope):
            return found[1]
    return "auth.globus.org"
