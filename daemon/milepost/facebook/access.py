"""What a page's calls are made with."""

from msgspec import Struct

from milepost.core.problems import Problem


class Access(Struct, eq=False):
    """The token of a page, which may be replaced at any time: it holds from the next call on.

    While there is a `problem`, no call is made; that is the answer then. The repr leaves the token out.
    """

    token: str
    problem: Problem | None = None

    def __repr__(self) -> str:
        return f"Access(problem={self.problem!r})"
