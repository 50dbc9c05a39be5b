"""Who asks, and what they may: scopes and namespaces. Knows tokens and names, not routes."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from adreg.registry.server.answers import FORBIDDEN, ApiError
from adreg.registry.tokens import EVERYWHERE, NO_NAMESPACE, Scope, TokenRecord, Tokens
from adreg.wire import bearer

LOCAL, ANONYMOUS = "local", "anonymous"
UNAUTHORIZED = 401


@dataclass(frozen=True)
class Caller:
    """The bearer of a token, or somebody without one. `id` tells uploads of different callers apart."""

    id: str
    scope: Scope
    namespace: str

    def reaches(self, name: str) -> bool:
        """Whether the adapter `name` lies within the caller's namespace."""
        return self.namespace in (EVERYWHERE, namespace_of(name))

    def require(self, scope: Scope, name: str | None = None) -> None:
        """Raise a 403 unless the caller has `scope`, there where `name` is."""
        if self.scope < scope:
            raise ApiError(FORBIDDEN, "forbidden", f"this needs the scope {scope.label}", _create_hint(scope, self.namespace))
        if name is not None and not self.reaches(name):
            hint = _create_hint(scope, namespace_of(name))
            raise ApiError(FORBIDDEN, "forbidden", f"this token is for the namespace {self.namespace!r} only", hint)


asking: ContextVar[Caller] = ContextVar("asking")


def namespace_of(name: str) -> str:
    """`team` of `team/voice`; `_` for a name without a namespace."""
    namespace, slash, _ = name.partition("/")
    return namespace if slash else NO_NAMESPACE


def identify(tokens: Tokens, authorization: str, anonymous_read: bool) -> Caller:
    """Who sent this Authorization header. Raises a 401. Without any token made, whoever gets here may do everything."""
    if not tokens.exist():
        return Caller(LOCAL, Scope.ADMIN, EVERYWHERE)
    if not authorization and anonymous_read:
        return Caller(ANONYMOUS, Scope.READ, EVERYWHERE)
    secret = bearer(authorization)
    found = tokens.check(secret) if secret is not None else None
    if found is None:
        what = "a token that is not valid here" if authorization else "no token"
        hint = "ask the registry's operator for one (adreg registry token create), and set ADREG_TOKEN"
        raise ApiError(
            UNAUTHORIZED, "unauthorized", f"{what} in the Authorization header", hint, {"WWW-Authenticate": "Bearer"}
        )
    return _caller(found)


def _caller(token: TokenRecord) -> Caller:
    return Caller(token.id, token.scope, token.namespace)


def _create_hint(scope: Scope, namespace: str) -> str:
    return f"adreg registry token create --scope {scope.label} --namespace {namespace}"
