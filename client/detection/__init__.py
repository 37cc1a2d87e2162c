"""Detection without I/O: lines in, verdicts and notices out. No clock, no socket, no thread."""
