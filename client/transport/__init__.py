"""The connection to the server: polling, TLS, byte counts, and the state of compression."""
