"""Takes in replies: checks each one, stores what it carries, and returns the event for the coordinator."""

from __future__ import annotations

from common.model.manifest import Manifest
from common.protocol.messages import Description, Evaluation, Update
from server.coordination.events import Described, DescriptionFailed, Event, ReplyAdmitted, TaskFailed
from server.coordination.state import State, client_name
from server.federation.admission import AdmissionError, admit
from server.federation.admitted_replies import AdmittedReplies, AdmittedReply
from server.federation.client_records import ClientRecords
from server.federation.exchange import DUPLICATE, Reply
from server.federation.journal import Journal


class ReplyIntake:
    """Turns replies into events.

    Args:
        replies: Gets the replies that are admitted.
        records: Count admitted and rejected replies by client.
        journal: Records rejected replies.
    """

    def __init__(self, replies: AdmittedReplies, records: ClientRecords, journal: Journal) -> None:
        self._replies = replies
        self._records = records
        self._journal = journal

    def event(self, reply: Reply, state: State, newest: Manifest | None) -> Event | None:
        """Return the event that a reply causes; None for a duplicate.

        Args:
            reply: A reply.
            state: The coordinator's.
            newest: The newest version; None before there is one.
        """
        sent, answer = reply.sent, reply.answer
        if isinstance(answer, Description):
            return Described(sent.node, sent.number, answer, reply.owner)
        if sent.kind is None:
            self._journal.description_failed(sent.node, reply.error, state.clients)
            return DescriptionFailed(sent.node, reply.error)
        reason, kind = reply.error, reply.error_kind
        if answer is not None:
            assert newest is not None  # noqa: S101  tasks are sent with it
            try:
                return self._admitted(reply, answer, state, newest)
            except AdmissionError as error:
                reason, kind = f"not admitted: {error}", error.kind
        client = client_name(state, sent.node)
        self._records.count_rejected(client, kind)
        self._journal.reply_rejected(client, sent.number, reason)
        return TaskFailed(sent.node, sent.number, reason) if kind != DUPLICATE else None

    def _admitted(
        self, reply: Reply, answer: Update | Evaluation, state: State, newest: Manifest
    ) -> ReplyAdmitted:
        """Store an answer.

        Raises:
            AdmissionError: it is not admitted.
        """
        client = state.clients.get(reply.sent.node)
        if client is not None and client.name and client.name != answer.client:
            raise AdmissionError("name", f"it is signed '{answer.client}'")
        with self._journal.timed_decoding():
            answer = admit(answer, reply.sent.version, newest)
        traffic = self._records.record_reply(answer)
        self._replies.add(AdmittedReply(answer, reply, traffic))
        return ReplyAdmitted(reply.sent.node, reply.sent.number, answer.drifted)
