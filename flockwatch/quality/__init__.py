"""How well a fleet detects, measured on labelled files by one protocol for all rivals (`docs/quality.md`)."""
