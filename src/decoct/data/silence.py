"""An end to waiting for a Hub that is silent."""

from __future__ import annotations

from typing import Any

from huggingface_hub import get_session

__all__ = ["give_up_on_silence"]

SILENCE = 60.0  # seconds without a byte, after which a request has failed


def give_up_on_silence() -> None:
    """Ends this process's requests to a Hub that takes them and does not answer, after `SILENCE` seconds each.

    The client has limits of its own for downloads (HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_ETAG_TIMEOUT: 10 seconds), which
    stay; of what else it asks, such as commits and lists of files, it would wait for ever. It asks some of it up to six
    times.
    """
    session = get_session()
    hooks = session.event_hooks
    if _limit not in hooks["request"]:
        session.event_hooks = {**hooks, "request": [*hooks["request"], _limit]}


def _limit(request: Any) -> None:
    """Gives a request of the client the limit that it has none of, or a longer one."""
    given = request.extensions.get("timeout") or {}
    limits = {step: min(given.get(step) or SILENCE, SILENCE) for step in ("connect", "read", "write", "pool")}
    request.extensions = {**request.extensions, "timeout": limits}
