"""File and byte formats that both sides read."""
