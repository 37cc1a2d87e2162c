"""Turns updates into the next version: gate, aggregation, encoding, and the write to the registry."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from common.model.manifest import Manifest
from common.model.weights import Weights, size_of
from common.protocol.messages import Description
from common.settings import Settings
from server.coordination.actions import Aggregate, CreateFirstVersion, Publish
from server.coordination.events import Aggregated, AggregationFailed
from server.federation.admission import limit_norms
from server.federation.aggregation import Aggregator, EmptyAggregationError
from server.federation.client_records import ClientRecords
from server.federation.compression import AppliedUpdates, VersionChain, VersionStep, down
from server.federation.first_version import first_version
from server.federation.journal import Journal
from server.federation.replies import AdmittedReplies, AdmittedReply, weighted_error
from server.storage.registry import Registry

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Aggregation:
    """An aggregation whose version is not published yet."""

    weights: Weights
    replies: list[AdmittedReply]
    failures: Mapping[str, str]
    error: float


class VersionPublisher:
    """Makes and writes versions. It owns the newest version, the chain of steps, and the applied updates.

    Args:
        aggregator: Makes one set of weights of many updates.
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
        self._aggregation: _Aggregation | None = None
        self.newest: Manifest | None = None
        """The newest version; None before version 0."""
        self.chain = VersionChain()
        """The steps that lead to the newest version."""
        self.applied = AppliedUpdates()
        """The updates that became part of a version."""

    def resume(self) -> Mapping[str, Any] | None:
        """Continue from the newest version in the registry.

        Returns:
            The progress that was written with it; None if the registry is empty.
        """
        saved = self._registry.latest()
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
        """Make and write version 0.

        Raises:
            TransferError: the version that `federation.start_from` names does not fit.
            OSError: it cannot be written.
        """
        self.newest = first_version(action.features, descriptions, self._settings)
        self._write(self.newest, action.progress, None)

    def aggregate(self, action: Aggregate, clients: Collection[str]) -> Aggregated | AggregationFailed:
        """Make the weights of the next version, which `publish` then writes.

        Args:
            action: The updates.
            clients: Names of the connected clients.
        """
        newest = self._newest()
        replies, rejected = limit_norms(
            self._replies.take(action.shares), self._records.norms().values(), self._settings.gate
        )
        failures = {failure.client: failure.reason for failure in action.failures}
        for reply, reason in rejected:
            failures[reply.client] = reason
            self._records.count_rejected(reply.client, "norm")
            self._journal.reply_rejected(reply.client, reply.number, reason)
        try:
            if not replies:
                raise EmptyAggregationError("the norm gate rejected every update")
            updates = [reply.weighted for reply in replies]
            weights = self._aggregator.aggregate(newest.version + 1, newest.weights, updates)
        except EmptyAggregationError as error:
            self._journal.aggregation_failed(newest.version + 1, newest.version, str(error), failures)
            return AggregationFailed(str(error))
        self._records.record_aggregated((r.update, r.staleness, r.clipped) for r in replies)
        mean_error = self._mean_error(replies, clients)
        self._aggregation = _Aggregation(weights, replies, failures, mean_error)
        return Aggregated(mean_error, len(replies), any(reply.answer.drifted for reply in replies))

    def publish(self, action: Publish, clients: Collection[str]) -> None:
        """Encode and write the aggregated version; it becomes the newest.

        Args:
            action: Its number and the progress to write with it.
            clients: Names of the connected clients.

        Raises:
            OSError: it cannot be written.
        """
        newest, aggregation = self._newest(), self._aggregation
        assert aggregation is not None  # noqa: S101  the coordinator publishes what was aggregated
        self._aggregation = None
        with self._journal.timed_encoding():
            speeds = self._records.link_speeds(clients).values()
            codec = down(self._settings.compression, size_of(newest.architecture.shapes), speeds)
            weights, block = self.chain.encoded(newest, aggregation.weights, codec)
        contributors = {*clients, *(reply.client for reply in aggregation.replies)}
        manifest = replace(
            newest,
            version=action.version,
            weights=weights,
            scores=self._records.merged_scores(contributors, newest.scores),
            residuals=self._records.merged_residuals(contributors, newest.residuals),
        )
        for reply in aggregation.replies:
            self.applied.add(reply.client, reply.update.serial)
        self._write(manifest, action.progress, self.chain.extend(newest, manifest, block))
        self.newest = manifest
        self._journal.round_closed(
            "train", action.version, action.version, aggregation.replies, aggregation.failures,
            aggregation.error,
        )  # fmt: skip

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

    def _write(self, manifest: Manifest, progress: Mapping[str, Any], step: VersionStep | None) -> None:
        memory = self._aggregator.memory() | self.chain.memory()
        progress = {**progress, "serials": self.applied.to_json()}
        self._registry.write(manifest, progress, memory, step.pack() if step is not None else None)
        self.chain.keep_from(manifest.version - self._settings.server.keep_versions)
