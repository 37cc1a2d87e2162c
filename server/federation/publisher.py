"""Turns updates into the next version: gate, aggregation, encoding, and the write to the registry."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from common.compression.codec import Feedback
from common.detectors.choice import USING_SUMS
from common.model.manifest import Manifest
from common.model.moments import Moments
from common.model.weights import size_of
from common.protocol.messages import Description
from common.settings import Settings
from server.coordination.actions import Aggregate, CreateFirstVersion, Publish
from server.coordination.events import Aggregated, AggregationFailed
from server.federation.admission import limit_norms
from server.federation.client_records import ClientRecords
from server.federation.compression import AppliedUpdates, VersionChain, VersionStep, version_codec
from server.federation.first_version import first_version
from server.federation.journal import Journal
from server.federation.renewal import MAX_RENEWALS, Renewal, carried_over, renewed
from server.federation.replies import AdmittedReplies, AdmittedReply, typical_error, weighted_error
from server.federation.selection import Draft, Selection
from server.federation.sums import with_sums
from server.storage.registry import Registry, SavedVersion
from server.versions.aggregation import Aggregator, EmptyAggregationError
from server.versions.canary import Canary

log = logging.getLogger(__name__)

VERSIONS = "versions"
"""The name under which a problem with the registry is reported."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    """The next version, which is sound and waits for `publish`, and what is recorded of its round."""

    draft: Draft
    replies: list[AdmittedReply]
    """The replies that it was made of."""
    failures: Mapping[str, str]
    """Why other replies were not used, by client."""
    error: float
    """The federation's error before it."""


class VersionPublisher:
    """Makes and writes versions. It owns the newest version, the chain of steps, and the applied updates.

    Args:
        aggregator: Makes one set of weights from many updates.
        settings: The gate, the codecs, and the settings that become part of version 0.
        registry: Where versions are kept.
        replies: The updates to aggregate.
        records: The clients' scores, errors and links.
        journal: Records rounds.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        settings: Settings,
        registry: Registry,
        replies: AdmittedReplies,
        records: ClientRecords,
        journal: Journal,
    ) -> None:
        self._aggregator = aggregator
        self._settings = settings
        self._registry = registry
        self._replies = replies
        self._records = records
        self._journal = journal
        self._candidate: _Candidate | None = None
        self._canary = Canary()
        self._selection = Selection(records, self._canary)
        self._renewals: list[Renewal] = []
        """The newest renewals of the fleet's moments, oldest first."""
        self._known_moments: dict[str, Moments | None] | None = None
        """The clients' moments that were compared last with the fleet's."""
        self.newest: Manifest | None = None
        """The newest version; None before version 0."""
        self.chain = VersionChain()
        """The steps that lead to the newest version."""
        self.applied = AppliedUpdates()
        """The updates that became part of a version."""

    def resume(self) -> Mapping[str, Any] | None:
        """Continue from the newest version in the registry.

        Returns:
            The progress that was written with it; None if there is no version that can be read.
        """
        saved = self._registry.latest()
        if self._registry.damaged:
            used = f"version {saved[0].version} is used" if saved is not None else "none can be read"
            self._journal.damage_found(f"{used}; damaged: {'; '.join(self._registry.damaged)}")
        if saved is None:
            return None
        self.newest, progress = saved
        memory = self._registry.memory(self.newest.version)
        self._aggregator.restore(memory)
        self.chain = VersionChain(self._registry.steps(), memory)
        self.applied = AppliedUpdates(progress.get("serials"))
        log.info("resuming version=%d hash=%s", self.newest.version, self.newest.hash[:12])
        return progress

    def create_first(self, action: CreateFirstVersion, descriptions: Iterable[Description]) -> None:
        """Make and write the first version of the federation's features.

        The records of versions with other features are removed.

        Raises:
            TransferError: the version that `federation.start_from` names does not fit.
        """
        if self.newest is not None:
            self._journal.features_changed(action.version, action.features)
            self._aggregator.forget()
            self._records.forget_model()
            self._renewals = []
        first = first_version(action.features, descriptions, self._settings)
        self.newest = replace(first, version=action.version)
        self._write(self.newest, action.progress, None)

    def aggregate(
        self, action: Aggregate, clients: Collection[str], descriptions: Collection[Description] = ()
    ) -> Aggregated | AggregationFailed:
        """Make the next version, read it back and try it on synthetic faults; `publish` then writes it.

        If it cannot be read back or is blind, one client is left out: the one without which it is sound.

        Args:
            action: The updates.
            clients: Names of the connected clients.
            descriptions: Theirs, from which the fleet's moments are renewed.
        """
        newest = self._newest()
        taken = self._replies.take(action.shares)
        if self._renewals:
            taken = [carried_over(reply, self._renewals, newest.architecture.window) for reply in taken]
        present = {*clients, *(reply.client for reply in taken)}
        norms, gate = self._records.norms(present), self._settings.gate
        replies, rejected = limit_norms(taken, norms, gate, clip=len(present) == 1)
        failures = {failure.client: failure.reason for failure in action.failures}
        for reply, reason in rejected:
            failures[reply.client] = reason
            self._records.count_rejected(reply.client, "norm")
            self._journal.reply_rejected(reply.client, reply.number, reason)
        try:
            if not replies:
                raise EmptyAggregationError("the norm gate rejected every update")
            contributors = {*clients, *(reply.client for reply in replies)}
            draft, left_out = self._sound_draft(replies, contributors, descriptions)
        except EmptyAggregationError as error:
            self._journal.aggregation_failed(newest.version + 1, newest.version, str(error), failures)
            return AggregationFailed(str(error))
        for client, reason in left_out.items():
            failures[client] = reason
            self._records.forget_scores(client)
            self._records.count_rejected(client, "unreadable")
            self._journal.reply_rejected(client, 0, reason)
        replies = [reply for reply in replies if reply.client not in left_out]
        self._records.record_aggregated((r.update, r.staleness, r.clipped) for r in replies)
        contributors = {*clients, *(reply.client for reply in replies)} - left_out.keys()
        self._known_moments = {d.client: d.moments for d in descriptions if d.client not in left_out}
        self._candidate = _Candidate(draft, replies, failures, self._mean_error(replies, clients))
        # Errors in a new unit cannot be compared with earlier ones, and are the first ones again.
        drifted = self._records.has_drifted(contributors) or newest.version in (v for v, _ in self._renewals)
        return Aggregated(self._typical_error(replies, clients), len(replies), drifted, tuple(left_out))

    def _sound_draft(
        self,
        replies: list[AdmittedReply],
        contributors: Collection[str],
        descriptions: Collection[Description],
    ) -> tuple[Draft, dict[str, str]]:
        """Return the next version, and who was left out of it, with the reason.

        Args:
            replies: The updates.
            contributors: The clients whose scores, residuals and moments may be used.
            descriptions: Those of the connected clients.

        Raises:
            EmptyAggregationError: no sound version can be made without one of the clients either.
        """
        memory, feedback = self._aggregator.memory(), self.chain.feedback

        def make(
            updates_of: Collection[str], statistics_of: Collection[str], left_out: Collection[str]
        ) -> Draft:
            used = [reply for reply in replies if reply.client in updates_of]
            known = [d for d in descriptions if d.client not in left_out]
            return self._draft(used, statistics_of, known)

        def undo() -> None:
            self._aggregator.restore(memory)
            self.chain.feedback = feedback

        newest, updates = self._newest(), {reply.client for reply in replies}
        try:
            draft = make(updates, contributors, ())
            self._canary.check(newest, draft.manifest)
        except Exception as error:  # it follows from what the clients sent
            undo()
            return self._selection.sound_draft(error, newest, updates, set(contributors), make, undo)
        return draft, {}

    def _draft(
        self,
        replies: list[AdmittedReply],
        contributors: Collection[str],
        descriptions: Collection[Description],
    ) -> Draft:
        """Return the next version of these updates, these clients' scores and these moments, unchecked."""
        newest = self._newest()
        largest = self._records.largest_rows(contributors)
        updates = [reply.weighted(largest) for reply in replies]
        weights = self._aggregator.aggregate(newest.version + 1, newest.weights, updates)
        with self._journal.timed_encoding():
            speeds = self._records.link_speeds(contributors).values()
            codec = version_codec(self._settings.compression, size_of(newest.architecture.shapes), speeds)
            weights, block = self.chain.encoded(newest, weights, codec)
        manifest = replace(
            newest,
            version=newest.version + 1,
            weights=weights,
            scores=self._records.merged_scores(contributors, newest.scores),
            residuals=self._records.merged_residuals(contributors, newest.residuals),
        )
        if newest.settings.detector.family in USING_SUMS:
            summed = with_sums(manifest, self._records, contributors)
            # What changes but the weights is sent with the whole version.
            manifest, block = summed, block if summed is manifest else None
        if self._known_moments == {d.client: d.moments for d in descriptions}:
            return Draft(manifest, block, None)
        if (result := renewed(manifest, descriptions)) is None:
            return Draft(manifest, block, None)
        manifest, change = result
        self.chain.feedback = Feedback()
        return Draft(manifest, None, change)

    def publish(self, action: Publish) -> None:
        """Write the version that was made; it becomes the newest.

        Args:
            action: Its number and the progress to write with it.
        """
        newest, candidate = self._newest(), self._candidate
        assert candidate is not None  # noqa: S101  the coordinator publishes what was aggregated
        self._candidate = None
        manifest, block, change = candidate.draft
        for reply in candidate.replies:
            self.applied.add(reply.client, reply.update.serial)
        if change is not None:
            self._aggregator.rescale(change, manifest.architecture.window)
        self._write(manifest, action.progress, self.chain.extend(newest, manifest, block))
        self.newest = manifest
        if change is not None:
            self._renewals = [*self._renewals, (manifest.version, change)][-MAX_RENEWALS:]
            self._records.rescale(change, manifest.architecture.window, manifest.version)
            self._journal.moments_renewed(manifest.version)
        self._journal.round_closed(
            "train", action.version, action.version, candidate.replies, candidate.failures, candidate.error
        )

    def write_again(self) -> None:
        """Write the newest version if an earlier attempt failed."""
        self._registry.save_again()
        self._journal.trouble_changed(VERSIONS, self._registry.trouble)

    def delete_old_versions(self) -> None:
        """Delete versions from disk that are no longer kept."""
        self._registry.delete_old()

    def _newest(self) -> Manifest:
        assert self.newest is not None  # noqa: S101  updates are of a version
        return self.newest

    def _mean_error(self, replies: list[AdmittedReply], clients: Collection[str]) -> float:
        """Return the federation's error before this aggregation."""
        if self._settings.federation.mode == "asynchronous":
            # The updates come from a few clients only, so the newest error of every client counts.
            error = self._records.mean_error(clients)
            if error is not None:
                return error
        return weighted_error([reply for reply in replies if not reply.staleness] or replies)

    def _typical_error(self, replies: list[AdmittedReply], clients: Collection[str]) -> float:
        """Return the error before this aggregation by which the stop rule judges: the median client's."""
        if self._settings.federation.mode == "asynchronous":
            error = self._records.typical_error(clients)
            if error is not None:
                return error
        return typical_error([reply for reply in replies if not reply.staleness] or replies)

    def _write(self, manifest: Manifest, progress: Mapping[str, Any], step: VersionStep | None) -> None:
        memory = self._aggregator.memory() | self.chain.memory()
        progress = {**progress, "serials": self.applied.to_json()}
        packed = step.pack() if step is not None else None
        self._registry.save(SavedVersion(manifest, progress, memory, packed))
        self._journal.trouble_changed(VERSIONS, self._registry.trouble)
        self.chain.keep_from(manifest.version - self._settings.server.keep_versions)
