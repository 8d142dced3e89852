"""`/api/daemon`: the daemon as a whole, from its memory, so that it answers while the database does not."""

from collections.abc import Callable, Sequence

from milepost.reporting.health import DaemonStatus
from milepost.service.api.endpoint import AnyOperation, Call, Nothing, Operation, Reply

PATH = "/api/daemon"


def daemon_status(status: Callable[[], DaemonStatus]) -> Sequence[AnyOperation]:
    """Declare the operation that shows the status of the daemon."""

    async def show_daemon(_: Call[Nothing, None]) -> Reply[DaemonStatus]:
        return Reply(status())

    return [
        Operation(
            "GET",
            PATH,
            "Show what is wrong with the daemon as a whole",
            parameters=Nothing,
            response=DaemonStatus,
            handle=show_daemon,
        )
    ]
