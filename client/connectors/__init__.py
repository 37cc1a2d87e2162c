"""Where events come from and alerts go to: sources, sinks, and the queue on disk before each sink."""
