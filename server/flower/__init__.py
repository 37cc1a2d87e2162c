"""Flower's SuperLink as a process, and the private names of Flower that only the server needs."""
