"""The problems of a detector process that exist now, as `/healthz` lists them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class Problems:
    """Messages by the part of the process that they concern. Any thread may read or change them."""

    def __init__(self) -> None:
        self._messages: dict[str, str] = {}

    def __contains__(self, part: str) -> bool:
        return part in self._messages

    def __getitem__(self, part: str) -> str:
        return self._messages[part]

    def messages(self) -> list[str]:
        """Return all messages."""
        return list(self._messages.values())

    def set(self, part: str, message: str) -> None:
        """Record a problem; it replaces an earlier one of the same part."""
        self._messages[part] = message

    def clear(self, part: str) -> None:
        """Remove the problem of a part, if there is one."""
        self._messages.pop(part, None)

    @contextmanager
    def watch(self, part: str) -> Iterator[None]:
        """Turn an OSError in the block into a problem, and clear the problem when the block succeeds.

        The error ends the block, and the code after the block continues.
        """
        try:
            yield
        except OSError as error:
            if part not in self:
                log.warning("operation failed part=%s reason=%s", part, error)
            self.set(part, f"{part}: {error}")
        else:
            self.clear(part)
