"""What is asked of each conversation, as the `fields` parameter says it."""

from milepost.core.model import Detail, Platform

POSITION_FIELDS = "id,updated_time"
THREAD_FIELDS = f"{POSITION_FIELDS},link,snippet,message_count,unread_count,can_reply,participants"
# Without the `to` of a message, which nothing reads: it makes answers a fifth larger.
MESSAGE_FIELDS = {
    Platform.MESSENGER: "id,created_time,from,message,sticker,attachments,shares",
    Platform.INSTAGRAM: "id,created_time,from,message,attachments,shares,story,is_unsupported",
}


def list_fields(platform: Platform, messages: int, detail: Detail) -> str:
    """What a list tells of each thread, with up to `messages` messages where it tells any."""
    match detail:
        case Detail.NESTED:
            return with_messages(THREAD_FIELDS, platform, messages)
        case Detail.SEPARATE | Detail.BARE:
            return THREAD_FIELDS
        case Detail.POSITION:
            return POSITION_FIELDS


def with_messages(fields: str, platform: Platform, messages: int) -> str:
    """These fields, and up to `messages` messages."""
    return f"{fields},messages.limit({messages}){{{MESSAGE_FIELDS[platform]}}}" if messages else fields
