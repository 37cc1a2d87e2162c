"""The trainer: measures a version on this client's rows, trains it, and personalises it."""
