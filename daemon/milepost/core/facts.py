"""Facts: reports of webhooks about stored messages that no sweep can find.

Facts come late, more than once and in any order, between sweeps that read the same messages. So each has a time by the
platform's clock, and older content never replaces newer: of two facts of a kind the later one counts, and likewise of
an edit and a reading of the message. Only an unsent message stays unsent in any case.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.model import UNAVAILABLE, Changes, ConversationRow, InteractionEventRow, Keys, Known
from milepost.core.records import Context, Pending, Record, unchanged_before
from milepost.core.revisions import is_reported_unsent, without_fingerprint
from milepost.core.webhooks import DueFact, FactsApplied, WebhookKind

MAX_FACTS = 200  # of one commit
_COUNTS = {
    WebhookKind.EDIT: "edited",
    WebhookKind.UNSEND: "unsent",
    WebhookKind.REACTION: "reactions",
    WebhookKind.REFERRAL: "referrals",
    WebhookKind.READ: "reads",
}


class Edited(Struct, frozen=True):
    """The `detail` of an edit."""

    text: str


class Reacted(Struct, frozen=True, omit_defaults=True):
    """The `detail` of a reaction; a removed reaction has none."""

    reaction: str | None = None
    emoji: str | None = None


class Reaction(Struct, frozen=True, rename={"actor": "from"}, omit_defaults=True):
    """An element of a message's `reactions`: whose it is, by the id of the contact or the page, and since when."""

    actor: str
    at: datetime
    reaction: str | None = None
    emoji: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_edited = msgspec.json.Decoder(Edited).decode
_decode_reacted = msgspec.json.Decoder(Reacted).decode
_decode_reactions = msgspec.json.Decoder(tuple[Reaction, ...]).decode


def detail_of(said: Edited | Reacted | Mapping[str, object]) -> str:
    """Return the content of a fact as JSON."""
    return _encode(said).decode()


def apply_facts(checkpoint: Checkpoint, due: tuple[DueFact, ...], context: Context) -> Pending:
    """Decide what facts change, the earliest first. Their messages must be as of the checkpoint's version."""
    conversations = dict.fromkeys(each.message.conversation_id for each in due)
    return PendingFacts(checkpoint, due, context, Keys(checkpoint.stream, conversations=tuple(conversations)))


class PendingFacts(Struct, frozen=True):
    """Facts whose conversations are not known yet."""

    checkpoint: Checkpoint
    due: tuple[DueFact, ...]
    context: Context
    keys: Keys

    def record(self, known: Known) -> Record:
        """Record what was applied, and that all of these facts are processed."""
        refused = {each.key for each in self.context.refused}
        stored = {each.message.event_id: each.message for each in self.due}
        rows, counts = dict(stored), Counter[str]()
        conversations = dict(known.conversations)
        for fact in self.due:
            key = fact.message.event_id
            before = rows[key]
            row = before if key in refused else after_fact(before, fact)
            rows[key] = row
            has_effect = row != before or self._reads(fact, conversations)
            if row.text != before.text:
                _change_snippet(conversations, before, row.text or "")
            counts[_COUNTS[fact.kind] if has_effect else "outdated"] += 1
        revised = tuple(row for key, row in rows.items() if row != stored[key])
        # The next reading of these is compared with what is stored.
        in_doubt = {row.conversation_id for row in revised if _content(row) != _content(stored[row.event_id])}
        in_doubt |= {each.message.conversation_id for each in self.due if contradicts(each)}
        for key in in_doubt & conversations.keys():
            conversations[key] = without_fingerprint(conversations[key])
        changes = Changes(
            conversations=tuple(
                row for key, row in conversations.items() if row != known.conversations[key] and key not in refused
            ),
            revised=revised,
            settled=tuple(each.event_key for each in self.due),
        )
        return Record((*unchanged_before(self.checkpoint, self.context.budget), FactsApplied(**counts)), changes)

    def _reads(self, fact: DueFact, conversations: dict[str, ConversationRow]) -> bool:
        """Note that the page has read a conversation; return whether that is news."""
        row = conversations.get(fact.message.conversation_id)
        if fact.kind is not WebhookKind.READ or fact.is_superseded or row is None or not row.unread_count:
            return False
        if fact.occurred_at <= row.synced_at:  # the list has reported the unread count since
            return False
        conversations[row.conversation_id] = replace(row, unread_count=0, synced_at=self.context.now)
        return True


def _change_snippet(conversations: dict[str, ConversationRow], before: InteractionEventRow, text: str) -> None:
    """Put what a message says now into its conversation, whose snippet is the beginning of the latest message.

    No later list may correct it, because neither an unsend nor an edit is known to move the conversation: what was
    edited first and unsent then would stay there.
    """
    conversation, said = conversations.get(before.conversation_id), before.text or ""
    if conversation is not None and conversation.snippet and said.startswith(conversation.snippet):
        is_whole = conversation.snippet == said
        snippet = text if is_whole else text[: len(conversation.snippet)]
        conversations[before.conversation_id] = replace(conversation, snippet=snippet or None)


def contradicts(fact: DueFact) -> bool:
    """Return whether a message was read after an edit, but has another text than the edit's.

    Either it was edited again, or the list was behind. Only another reading can show which.
    """
    row, at = fact.message, fact.occurred_at
    if fact.kind is not WebhookKind.EDIT or fact.is_superseded or fact.detail is None or row.deleted_at is not None:
        return False
    is_old_news = row.edited_at is not None and row.edited_at > at
    return _was_read_after(row, at) and not is_old_news and _decode_edited(fact.detail).text != row.text


def after_fact(row: InteractionEventRow, fact: DueFact) -> InteractionEventRow:
    """Return a message after a fact; unchanged if the fact is not news."""
    match fact.kind:
        case WebhookKind.UNSEND:
            at = fact.occurred_at
            unsent = replace(row, text=None, attachments=None, deleted_at=at, content_at=at)
            return row if is_reported_unsent(row) else unsent
        case WebhookKind.EDIT:
            return row if fact.is_superseded else _edited(row, fact)
        case WebhookKind.REACTION:
            return row if fact.is_superseded else _reacted(row, fact)
        case WebhookKind.REFERRAL:  # a referral without an actor came with the message, and takes precedence
            return row if fact.actor and row.referral is not None else replace(row, referral=fact.detail)
        case WebhookKind.READ | WebhookKind.MESSAGE | WebhookKind.REVISION:
            return row
        case unknown:
            assert_never(unknown)


def _edited(row: InteractionEventRow, fact: DueFact) -> InteractionEventRow:
    """Return a message after an edit. A message that was read since has the text already."""
    at = fact.occurred_at
    is_gone = row.deleted_at is not None and (is_reported_unsent(row) or row.deleted_at >= at)
    if is_gone or fact.detail is None or (row.edited_at is not None and row.edited_at > at):
        return row
    if _was_read_after(row, at):
        return replace(row, edited_at=at) if row.edited_at is None else row
    kind = "message" if row.kind == UNAVAILABLE else row.kind
    text = _decode_edited(fact.detail).text
    return replace(row, kind=kind, text=text, edited_at=at, deleted_at=None, content_at=at)


def _was_read_after(row: InteractionEventRow, at: datetime) -> bool:
    """Return whether a message was read at this instant or later; another edit of the same instant does not count."""
    return row.content_at is not None and (row.content_at > at or (row.content_at == at and row.edited_at != at))


def _reacted(row: InteractionEventRow, fact: DueFact) -> InteractionEventRow:
    before = _decode_reactions(row.reactions) if row.reactions is not None else ()
    if any(each.actor == fact.actor and each.at > fact.occurred_at for each in before):
        return row
    after = [each for each in before if each.actor != fact.actor]
    if fact.detail is not None:
        said = _decode_reacted(fact.detail)
        after.append(Reaction(fact.actor, fact.occurred_at, said.reaction, said.emoji))
    return replace(row, reactions=_encode(after).decode() if after else None)


def _content(row: InteractionEventRow) -> tuple[str | None, str | None]:
    return row.text, row.attachments
