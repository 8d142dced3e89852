"""Runs the contracts that both databases share."""

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
    """The delivery places."""


class TestErasure(ErasureContract):
    """Erasing a person."""


class TestMoves(MovesContract):
    """An account that moves to another page."""


class TestOwnId(OwnIdContract):
    """A contact's id that turns out to be our own."""


class TestRemoval(RemovalContract):
    """Removing a stream."""


class TestWebhooks(WebhooksContract):
    """The inbox of webhook events."""


class TestFacts(FactsContract):
    """Facts about messages."""
