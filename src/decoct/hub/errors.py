"""Errors of the Hub's client as one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

__all__ = ["first_line", "hub_errors", "is_sendable", "require_token"]

AGAIN = "Nothing is lost; the same command continues."
LOGIN = "Log in by `hf auth login`, or set HF_TOKEN to a token with write access."


def require_token(repo_id: str) -> str:
    """The user's token.

    Raises:
        PermissionError: If there is none, or one that cannot be sent; its text is not shown.
    """
    token = get_token()
    if not token:
        raise PermissionError(f"Publishing to {repo_id} takes a Hub token, and there is none. {LOGIN}")
    if not is_sendable(token):
        raise PermissionError(f"Publishing to {repo_id} takes a Hub token, and HF_TOKEN is not one. {LOGIN}")
    return token


def is_sendable(token: str) -> bool:
    """Whether HTTP allows all characters of a token; another would make the client show the token in its error."""
    return re.fullmatch(r"[!-~]*", token) is not None


@contextmanager
def hub_errors(repo_id: str, token: str | None = None) -> Iterator[None]:
    """Turns what the client raises, after its own retries, into one line that names the repository and the remedy.

    Args:
        token: Removed from messages, should the client or the Hub repeat it.

    Raises:
        PermissionError: For a token that is not valid or may not do this.
        ConnectionError: For a Hub that cannot be reached, is overloaded or broken.
        ValueError: For what the Hub refuses otherwise.
    """
    try:
        yield
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RuntimeError) as error:
        known = explain(error, repo_id)
        text = str(known)
        raise type(known)(text.replace(token, "***") if token else text) from None


def explain(error: BaseException, repo_id: str) -> OSError | ValueError:
    """The error to raise instead."""
    # A failed transfer of a file is an error of its own, whose cause is the client's.
    while not isinstance(error, HTTPError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f"{repo_id} cannot be reached while HF_HUB_OFFLINE is set. Unset it and run again.")
    if isinstance(error, HfHubHTTPError):
        return explain_status(error.response.status_code, str(error.server_message or error), repo_id)
    return ConnectionError(f"{repo_id}: the Hub cannot be reached ({first_line(error)}). {AGAIN}")


def explain_status(status: int, message: str, repo_id: str) -> OSError | ValueError:
    """The error for an answer of the Hub."""
    if status == 401:
        return PermissionError(f"{repo_id}: the Hub does not accept the token (401). {LOGIN}")
    if status == 403:
        return PermissionError(
            f"{repo_id}: the token may not write there (403). Use a token with write access to it, or a repository "
            "of your own."
        )
    if status == 404:
        return ValueError(f"{repo_id}: no such repository or branch, or the token may not see it (404).")
    if status in (409, 412):
        return ConnectionError(f"{repo_id} was changed by someone else meanwhile ({status}). Run the command again.")
    if status == 429:
        return ConnectionError(f"{repo_id}: the Hub asks for fewer requests (429). Wait some minutes. {AGAIN}")
    if status >= 500:
        return ConnectionError(f"{repo_id}: the Hub has a problem of its own ({status}). Try later. {AGAIN}")
    return ValueError(f"{repo_id}: the Hub refuses this ({status}): {first_line(message)}")


def first_line(text: object) -> str:
    """The first line that says something, cut to 300 characters."""
    return next((line.strip()[:300] for line in str(text).splitlines() if line.strip()), type(text).__name__)
