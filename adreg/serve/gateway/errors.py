"""How an upstream can fail a request, told apart by what may still be done about it, and what the client is told."""

from __future__ import annotations

from adreg.errors import RemoteError
from adreg.serve.api.errors import ApiError

RETRY_AFTER = {"Retry-After": "1"}


class UpstreamError(RemoteError):
    """An upstream did not answer as it should have; `status` and `code` are what the client gets where nothing was sent yet."""

    status, code = 502, "upstream_failed"

    @property
    def answer(self) -> ApiError:
        return ApiError(self.status, f"upstream {self}", None, self.code, RETRY_AFTER if self.status == 503 else None)


class Unreached(UpstreamError):
    """No connection came about: nothing of the request has arrived."""

    status, code = 503, "upstream_unreachable"


class Refusing(UpstreamError):
    """It answered that it does not work now."""

    status, code = 503, "upstream_unavailable"


class Broken(UpstreamError):
    """The connection ended before the answer was whole."""

    code = "upstream_broken"


class Nonsense(UpstreamError):
    """What came is no answer that the gateway could pass on."""

    code = "upstream_nonsense"


class Silent(UpstreamError):
    """Nothing came for longer than the gateway waits."""

    status, code = 504, "upstream_silent"
