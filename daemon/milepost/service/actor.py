"""Who asked for something, in words: what the journal keeps of an action."""

from aiohttp import web

from milepost import __version__
from milepost.service.sessions import COOKIE

COMMAND_LINE = f"milepost/{__version__}"  # the User-Agent of the commands


def actor_of(request: web.Request) -> str:
    """Say by what, and from where, a request came. It has been let in, and is taken at its word."""
    return f"{_means(request)} from {request.remote or 'nowhere'}"


def _means(request: web.Request) -> str:
    if request.headers.get("Sec-Fetch-Site") == "same-origin" or COOKIE in request.cookies:
        return "status page"
    return "command line" if request.headers.get("User-Agent", "").startswith("milepost/") else "API"
