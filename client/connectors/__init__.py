"""Sources of events, sinks of notices, and the queue on disk before each sink."""
