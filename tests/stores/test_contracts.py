"""What both databases do alike."""

from contracts.changes_contract import ChangesContract
from contracts.deliveries_contract import DeliveriesContract
from contracts.erasure_contract import ErasureContract
from contracts.moves_contract import MovesContract
from contracts.own_id_contract import OwnIdContract
from contracts.removal_contract import RemovalContract
from contracts.webhooks_contract import FactsContract, WebhooksContract


class TestChanges(ChangesContract):
    """The change feed."""


class TestDeliveries(DeliveriesContract):
    """The places of deliveries."""


class TestErasure(ErasureContract):
    """Erasing a person."""


class TestMoves(MovesContract):
    """An account that moves to another page."""


class TestOwnId(OwnIdContract):
    """An id that turns out to be ours."""


class TestRemoval(RemovalContract):
    """Removing a stream."""


class TestWebhooks(WebhooksContract):
    """The inbox of webhook events."""


class TestFacts(FactsContract):
    """Facts about messages."""
