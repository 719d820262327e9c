"""The exceptions for a user's mistake and for a signal, and the phrases that messages are built from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake that the user can put right. The message says what is wrong, where, and the remedy. It begins with a
    capital letter (or a file name, an option or a number) and ends with a period.

    Commands print the message alone and exit with code 2. Any other exception is a bug of vitral and keeps its
    traceback.
    """


class Stopped(KeyboardInterrupt):
    """A signal ends the program. `signal` is its number; commands exit with 128 + that number, as shells report it."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


@contextmanager
def error_context(place: object) -> Iterator[None]:
    """Put `place`, such as a file, before the message of a UserError that is raised within."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def nearest(name: str, options: Iterable[str]) -> str:
    """The hint ' Did you mean "x"?' with the option most like `name`, or '' when none is close."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f' Did you mean "{by_lower[close[0]]}"?' if close else ""


def shown(names: Sequence[object], limit: int = 10) -> str:
    """The first `limit` names joined by commas, and how many more there are: "a, b, c and 7 more"."""
    text = ", ".join(str(name) for name in names[:limit])
    more = len(names) - limit
    return f"{text} and {more} more" if more > 0 else text
