"""An admitted client: counted until it leaves, and open no longer than its token is valid. Knows no transport."""

from collections.abc import Callable

from handlers.access.admission import Admission
from handlers.access.expiry import Expiries
from handlers.access.tokens import Identity


class AdmittedClient:
    """Takes a place after Admission.check(). on_expired() is called when the token ends before the client has left."""

    def __init__(
        self,
        admission: Admission,
        expiries: Expiries,
        address: str | None,
        kind: str,
        identity: Identity,
        on_expired: Callable[[], None],
    ) -> None:
        self._admission = admission
        self._expiries = expiries
        self._address = address
        self._kind = kind
        self._holder = identity.holder  # counted under this one, even after a renewal with a newer token
        self._on_expired = on_expired
        self._expiry = expiries.watch(identity, on_expired)
        admission.enter(address, kind, self._holder)

    def renew(self, identity: Identity) -> None:
        """Lets the client stay for as long as this newer token is valid."""
        self._expiry.cancel()
        self._expiry = self._expiries.watch(identity, self._on_expired)

    def leave(self) -> None:
        """Called once, when the client is gone."""
        self._expiry.cancel()
        self._admission.leave(self._address, self._kind, self._holder)
