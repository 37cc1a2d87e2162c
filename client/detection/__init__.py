"""The pure core of live detection: events in, verdicts and notices out; no clock, socket or thread."""
