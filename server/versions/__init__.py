"""Arithmetic on whole model versions that only the server does; no clock, network or files."""
