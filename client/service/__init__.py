"""The detector process: its loop, the maintenance beside it, its metrics and its trainer process."""
