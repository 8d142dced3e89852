"""The domain model: streams, what a source reads from an inbox, and the rows that a store keeps.

Instants are aware datetimes in UTC. Ids are text, always: they exceed 2^53, and Instagram's are base64.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final, Self

from msgspec import Struct

from milepost.core.position import Gap, HistoriesLeftOut, MissedReason, Reading, Stretch, ThreadSpan


class Platform(StrEnum):
    """The platform of a page's conversations."""

    MESSENGER = "messenger"
    INSTAGRAM = "instagram"


class Stream:
    """One page on one platform, the unit that is swept, journaled and resumed.

    Only in rows and JSON is it text: its `key`, such as `messenger:1234567890`. msgspec would write a struct as an
    object, so this is a plain class, which the hooks of `stores.rows` write and read.
    """

    __slots__ = ("key", "page_id", "platform")

    def __init__(self, platform: Platform, page_id: str) -> None:
        self.platform: Final = platform
        self.page_id: Final = page_id
        self.key: Final = f"{platform}:{page_id}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.key

    def __repr__(self) -> str:
        return f"Stream({self.key!r})"

    @classmethod
    def parse(cls, key: str) -> Self:
        """Parse a key. Raises ValueError for anything that is not `platform:page id`."""
        platform, separator, page_id = key.partition(":")
        if not separator or not page_id:
            msg = f"{key!r} is not a stream; streams are written messenger:<page id> or instagram:<page id>"
            raise ValueError(msg)
        return cls(Platform(platform), page_id)


class DataSource(Struct, frozen=True):
    """The source of the rows in a database: `source.kind` and the API's base URL.

    The embedded simulator has no base URL, because its port changes with each start while its data stays.
    """

    kind: str
    base_url: str = ""

    def __str__(self) -> str:
        return f"{self.kind} at {self.base_url}" if self.base_url else f"the embedded {self.kind}"


LEAN_MESSAGES = 5  # of the newest
UNAVAILABLE = "unavailable"  # the kind of a message without content: deleted, or older than what the API gives out


class Detail(StrEnum):
    """How much of each conversation is requested, from most to least."""

    NESTED = "nested"  # with its messages
    SEPARATE = "separate"  # the same, but with a request per thread for its messages
    LEAN = "lean"  # with its newest messages only, and only essential fields
    BARE = "bare"  # without its messages
    POSITION = "position"  # its id and updated_time only, to step over it

    @property
    def leaves_out(self) -> bool:
        """Whether some part is not read, and becomes a dead letter."""
        return self in {Detail.LEAN, Detail.BARE, Detail.POSITION}


class TokenHealth(Struct, frozen=True, omit_defaults=True):
    """The health of a token as the platform reports it (Meta, "Debug Token").

    `expires_at` and `data_access_expires_at` are None if the token, or its access to people's data, never expires.
    """

    is_valid: bool
    expires_at: datetime | None = None
    data_access_expires_at: datetime | None = None

    @property
    def ends_at(self) -> datetime | None:
        """When the token becomes useless unless it is renewed; None for never."""
        ends = [each for each in (self.expires_at, self.data_access_expires_at) if each is not None]
        return min(ends, default=None)


class OwnIdState(StrEnum):
    """What the participants of an inbox's threads say about our own id."""

    EXPECTED = "expected"  # it is among them
    ANOTHER = "another"  # it is in no thread, and another one is in each
    UNKNOWN = "unknown"  # it is in no thread, and it is unknown which participant is us


class OwnId(Struct, frozen=True, omit_defaults=True):
    """Our own id in an inbox. `own_id` is the one that is taken as ours if the expected one is in no thread."""

    state: OwnIdState
    own_id: str | None = None


# --- what a source reads ----------------------------------------------------------------------------------------------


class Contact(Struct, frozen=True, gc=False):
    """The other party of a conversation. Messenger has a name for it, Instagram a user name."""

    contact_id: str
    name: str | None = None
    username: str | None = None


class Direction(StrEnum):
    """Who sent a message: `in` is the contact, `out` the page."""

    IN = "in"
    OUT = "out"


class Interaction(Struct, frozen=True, gc=False):
    """One message of a conversation. `attachments` is JSON text without URLs that expire or are signed."""

    event_id: str
    direction: str  # a Direction's value
    kind: str
    occurred_at: datetime
    contact_id: str | None = None
    text: str | None = None
    attachments: str | None = None


class Conversation(Struct, frozen=True, gc=False, cache_hash=True):
    """One conversation as the API returned it. None means that the API left the value out, not that there is none.

    Its hash is cached for the heads of quiet inboxes, which are hashed anew in each sweep (see core/quiet.py).

    `replaced_characters` counts the characters of its texts that a database refuses, and that are U+FFFD instead. If it
    `has_older` messages than these, they come after `older_cursor` if that is known.
    """

    conversation_id: str
    updated_time: datetime
    contact: Contact | None = None
    link: str | None = None
    snippet: str | None = None
    message_count: int | None = None
    unread_count: int | None = None
    can_reply: bool | None = None
    interactions: tuple[Interaction, ...] = ()
    replaced_characters: int = 0
    has_older: bool = False
    older_cursor: str | None = None


class Unreadable(Struct, frozen=True):
    """An item of a batch that is not a valid conversation. `payload` is its JSON without tokens."""

    subject: str
    reason: str
    payload: str


class Profile(Struct, frozen=True):
    """The name of a page, and the user name of its Instagram account; None if unknown."""

    name: str | None = None
    username: str | None = None


class Batch(Struct, frozen=True):
    """One response of the list edge, newest conversation first. `next_cursor` is None on the last batch only.

    `own_id` is what its participants say about our own id, `page` the owner of the inbox; each is None if unknown.
    """

    conversations: tuple[Conversation, ...]
    next_cursor: str | None
    unreadable: tuple[Unreadable, ...] = ()
    own_id: OwnId | None = None
    page: Profile | None = None


class MessagePage(Struct, frozen=True):
    """Messages of one conversation, newest first, and the `bare_ids` of those of which the API has only the id."""

    interactions: tuple[Interaction, ...]
    next_cursor: str | None = None  # None if these are its oldest
    unreadable: tuple[Unreadable, ...] = ()
    bare_ids: tuple[str, ...] = ()
    withheld: MissedReason | None = None  # of an empty page: why no more can be read


# --- what a store keeps -----------------------------------------------------------------------------------------------


class PageRow(Struct, frozen=True):
    """A row of `pages`, its columns in order. A None leaves the stored value, and `first_seen_at` is kept."""

    platform: str
    page_id: str
    name: str | None
    username: str | None
    first_seen_at: datetime
    last_seen_at: datetime


class ContactRow(Struct, frozen=True, gc=False):
    """A row of `contacts`, its columns in order. The key is (platform, page_id, contact_id): ids are page-scoped."""

    platform: str
    page_id: str
    contact_id: str
    name: str | None
    username: str | None
    first_seen_at: datetime
    last_interaction_at: datetime
    updated_at: datetime


class ConversationRow(Struct, frozen=True, gc=False):
    """A row of `conversations`, its columns in order."""

    conversation_id: str
    platform: str
    page_id: str
    contact_id: str | None
    link: str | None
    snippet: str | None
    message_count: int | None
    unread_count: int | None
    can_reply: bool | None
    updated_time: datetime
    first_synced_at: datetime
    synced_at: datetime
    deleted_at: datetime | None = None
    messages_fingerprint: str | None = None


class InteractionEventRow(Struct, frozen=True, omit_defaults=True, gc=False):
    """A row of `contact_interaction_events`, its columns in order. An unsent message (`deleted_at`) has no content."""

    event_id: str
    conversation_id: str
    platform: str
    page_id: str
    contact_id: str | None
    direction: str
    kind: str
    text: str | None
    attachments: str | None
    occurred_at: datetime
    edited_at: datetime | None = None
    deleted_at: datetime | None = None
    reactions: str | None = None
    referral: str | None = None
    content_at: datetime | None = None  # see core/revisions


class DeadLetterPayload(Struct, frozen=True):
    """What a redrive needs but the journal must not hold, because it is personal data."""

    dead_letter_id: str
    payload: str


class Changes(Struct, frozen=True, omit_defaults=True):
    """The rows that a commit writes: only those that are new or differ from the stored ones.

    A full sweep notes the stored conversations that it misses: those of the stream that lie in `missed` and were not
    seen. `found` were seen later. `missed_are_deleted_at` ends the sweep: those still missed are marked as deleted, and
    the notes are dropped; `forgets_missed` only drops the notes. `moved` are conversations that belonged to another
    page: they, their messages and their contacts move to this one; without a row or with an erased person, the rest of
    them moves or is deleted. `own_id` was found to be ours: no contact has it, and messages from it are ours. `page` is
    the page that was read; it alone makes no commit. `revised` are edited or unsent messages in their new state, and
    those to which facts were applied: the webhook events with the keys `settled`. Messages after `news_after` are news;
    without it, all are history. `named` are conversations whose contact was unknown: it owns their stored messages.
    """

    conversations: tuple[ConversationRow, ...] = ()
    contacts: tuple[ContactRow, ...] = ()
    interaction_events: tuple[InteractionEventRow, ...] = ()
    payloads: tuple[DeadLetterPayload, ...] = ()
    missed: Stretch | None = None
    found: tuple[str, ...] = ()
    missed_are_deleted_at: datetime | None = None
    forgets_missed: bool = False
    moved: tuple[str, ...] = ()
    own_id: str | None = None
    page: PageRow | None = None
    revised: tuple[InteractionEventRow, ...] = ()
    settled: tuple[str, ...] = ()
    news_after: datetime | None = None
    named: tuple[str, ...] = ()


class Keys(Struct, frozen=True):
    """The keys of the rows that a batch touches. Contacts and subjects are those of `stream`; other keys are global.

    `subjects` are those of dead letters. `full_sweep_at` identifies the batch's sweep if it is a full one that notes
    missed conversations, and `stretch` is the part of the inbox that the batch covers. `counts_stored` requests
    `Known.stored`, `locates_contacts` `contact_pages`, `counts_messages` message counts, and `readings` `messages`.
    """

    stream: Stream
    conversations: tuple[str, ...] = ()
    contacts: tuple[str, ...] = ()
    interaction_events: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    full_sweep_at: datetime | None = None
    stretch: Stretch | None = None
    counts_stored: bool = False
    locates_contacts: bool = False
    counts_messages: ThreadSpan | None = None
    readings: tuple[Reading, ...] = ()


class KnownDeadLetter(Struct, frozen=True):
    """The latest dead letter about a subject: open, or discarded.

    Its payload had this `fingerprint` when it was opened; `payload` is that of a refused row as it is stored now.
    """

    dead_letter_id: str
    fingerprint: str
    opened_at: datetime
    is_open: bool
    payload: str | None = None


class Table(StrEnum):
    """The tables whose rows a store may refuse."""

    CONVERSATIONS = "conversations"
    CONTACTS = "contacts"
    INTERACTION_EVENTS = "contact_interaction_events"


class RefusedRow(Struct, frozen=True):
    """A row that the store refuses: `key` is its conversation_id, contact_id or event_id."""

    table: Table
    key: str
    reason: str


class Known(Struct, frozen=True):
    """What the store holds under some keys. Values that were not requested are empty.

    `dead_letters` are by subject. `forgotten` are the contacts and conversations among the keys that were erased. In a
    full sweep, `unseen` counts the conversations in the stretch neither seen nor noted as missed, `missed` are those of
    the batch that are noted, and `all_missed` counts all noted ones of the stream. `stored` counts its conversations
    that are not deleted, `stored_messages` and `stored_below` the messages of a span, and `messages` are those of
    readings whose fingerprint differs from their conversation's. If conversations belong to other pages,
    `contacts_elsewhere` are those pages' contacts, by page and id, `owed_elsewhere` their gaps of the conversations,
    `left_out_elsewhere` the summaries of their histories that are not on record, and `moved_to` the pages to which rows
    of this page have moved, with the last sign of life of each. `left_behind` are conversations without a row whose
    messages belong to another page, with that page. If rows of this page have moved, `contact_pages` are the pages of
    each contact's conversations.
    """

    conversations: dict[str, ConversationRow] = {}
    contacts: dict[str, ContactRow] = {}
    interaction_events: frozenset[str] = frozenset()
    dead_letters: dict[str, KnownDeadLetter] = {}
    forgotten: frozenset[str] = frozenset()
    unseen: int = 0
    missed: frozenset[str] = frozenset()
    all_missed: int = 0
    stored: int = 0
    stored_messages: int = 0
    stored_below: int = 0
    messages: dict[str, InteractionEventRow] = {}
    contacts_elsewhere: dict[tuple[str, str], ContactRow] = {}
    moved_to: dict[str, datetime] = {}
    owed_elsewhere: tuple[Gap, ...] = ()
    left_out_elsewhere: tuple[HistoriesLeftOut, ...] = ()
    left_behind: dict[str, str] = {}
    contact_pages: dict[str, frozenset[str]] = {}
