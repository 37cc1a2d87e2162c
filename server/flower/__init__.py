"""Flower's SuperLink as a child process, and the server's use of Flower's private names."""
