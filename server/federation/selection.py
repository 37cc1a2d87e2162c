"""Selects the clients whose contributions a version is made of, if that of all of them cannot be published.

A version that cannot be read back, or is blind (`server.versions.canary`), is made again without the client
at fault. But the canary can be wrong: the newest version was published with scores and errors that clients
had measured with the version before it. If that one was better, the newest version seems better than it is,
and every further version seems blind beside it. Two rules, so that this stops no fleet for good:

- If most clients have measured the newest version itself, and the scores of each of them make a version
  blind, the newest version is compared as they measured it, and none of them is at fault.
- After `MAX_HELD_BACK` blind versions in a row, the next one only has to be readable. It is made without the
  scores of clients that alone make it blind, unless these are most clients. Each client still tries it on its
  own rows before it uses it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from common.compression.choice import Block
from common.model.manifest import Manifest
from server.federation.client_records import ClientRecords
from server.federation.replies import error_text
from server.versions.aggregation import EmptyAggregationError
from server.versions.canary import BlindVersionError, Canary, read_back
from server.versions.rescaling import Rescaling

log = logging.getLogger(__name__)

MAX_TRIES = 64
"""Largest number of clients that are left out in turn to find the one that makes a version unusable."""

MAX_HELD_BACK = 3
"""Most blind versions in a row that are held back; meanwhile, clients measure the newest version."""


class Draft(NamedTuple):
    """A version that is made and not published."""

    manifest: Manifest
    block: Block | None
    """The encoded step to it; None if it is not encoded."""
    change: Rescaling | None
    """How its features change with its moments; None if these are the newest version's."""


MakeDraft = Callable[[Collection[str], Collection[str], Collection[str]], Draft]
"""Makes a version of the updates of the first clients, the scores and errors of the second ones, and the
moments of all but the third ones."""


@dataclass(frozen=True)
class _Choice:
    """Contributions to try, and what the version is compared with."""

    updates: set[str]
    """The clients whose updates are used."""
    statistics: set[str]
    """The clients whose scores and residuals are used."""
    reference: Manifest | None
    """The version to compare with; None: the new version only has to be readable."""
    at_fault: set[str]
    """The clients that are left out, with their moments."""


class Selection:
    """Finds contributions that make a sound version.

    Args:
        records: The clients' scores and residuals.
        canary: Checks versions.
    """

    def __init__(self, records: ClientRecords, canary: Canary) -> None:
        self._records = records
        self._canary = canary
        self._held_back: tuple[int, int] = (0, 0)
        """A version, and how many blind versions that follow it were held back."""

    def sound_draft(
        self,
        problem: Exception,
        newest: Manifest,
        updates: set[str],
        contributors: set[str],
        make: MakeDraft,
        undo: Callable[[], None],
    ) -> tuple[Draft, dict[str, str]]:
        """Return a sound version, and who was left out of it, with the reason.

        Args:
            problem: What is wrong with the version of all contributions.
            newest: The newest version.
            updates: Names of the clients that have sent updates.
            contributors: These and the connected clients.
            make: Makes a version.
            undo: Takes back what `make` has changed.

        Raises:
            EmptyAggregationError: no sound version can be made without one of the clients either.
        """
        reason = str(problem) if isinstance(problem, EmptyAggregationError) else error_text(problem)
        log.error("version cannot be published reason=%s", reason)
        is_blind = isinstance(problem, BlindVersionError)
        for choice in self._choices(newest, updates, contributors, is_blind):
            draft = self._tried(choice, make, undo) if choice.updates else None
            if choice.reference is not newest:  # further versions are compared with the one that follows
                self._canary.forget()
            if draft is not None:
                why = f"not used: with it, no version can be published: {reason}"
                return draft, dict.fromkeys(sorted(choice.at_fault), why)
        self._held_back = newest.version, self._blind_after(newest) + is_blind
        raise EmptyAggregationError(reason)

    def _blind_after(self, newest: Manifest) -> int:
        """Return how many blind versions in a row were held back."""
        version, count = self._held_back
        return count if version == newest.version else 0

    def _tried(self, choice: _Choice, make: MakeDraft, undo: Callable[[], None]) -> Draft | None:
        """Return the version of a choice; None if it is not sound either."""
        try:
            draft = make(choice.updates, choice.statistics, choice.at_fault)
            if choice.reference is None:
                read_back(draft.manifest)
            else:
                self._canary.check(choice.reference, draft.manifest)
        except Exception:  # any error here follows from what the clients sent
            undo()
            return None
        return draft

    def _choices(
        self, newest: Manifest, updates: set[str], contributors: set[str], is_blind: bool
    ) -> Iterator[_Choice]:
        """Yield what to try, one after the other, once the version of all contributions is refused.

        Args:
            newest: The newest version.
            updates: The clients that have sent updates.
            contributors: These and the connected clients.
            is_blind: Whether that version can be read, and is blind.
        """
        alone = self._unusable_alone(newest, contributors)
        measured = {name for name in contributors if self._records.scored_version(name) == newest.version}
        half = sum(self._records.scored_version(name) is not None for name in contributors) / 2
        blind_for_most = is_blind and len(alone) > half
        reference, suspects = newest, set() if blind_for_most else alone
        if blind_for_most and len(alone & measured) > half:
            log.warning("newest version compared as clients measured it clients=%d", len(measured))
            reference = self._with_statistics(newest, measured)
            self._canary.forget()
        for others in (set[str](), *({name} for name in sorted(contributors - suspects)[:MAX_TRIES])):
            left_out = suspects | others
            if left_out or reference is not newest:
                yield _Choice(updates - left_out, contributors - left_out, reference, left_out)
        if is_blind and self._blind_after(newest) >= MAX_HELD_BACK:
            log.warning("version only has to be readable blind_before=%d", self._blind_after(newest))
            statistics = contributors if blind_for_most else contributors - alone
            yield _Choice(updates, statistics, None, set())

    def _unusable_alone(self, newest: Manifest, contributors: set[str]) -> set[str]:
        """Return the clients whose scores or residuals alone make a version unreadable or blind."""
        alone = set()
        for client in contributors:
            try:
                self._canary.check(newest, self._with_statistics(newest, {client}))
            except Exception:  # the reason is that of the whole version
                alone.add(client)
        return alone

    def _with_statistics(self, version: Manifest, clients: set[str]) -> Manifest:
        """Return a version with the scores and residuals of these clients."""
        scores = self._records.merged_scores(clients, version.scores)
        residuals = self._records.merged_residuals(clients, version.residuals)
        return replace(version, scores=scores, residuals=residuals)
