"""Shared by server and clients: settings, schema, arithmetic, messages."""
