"""The connection to the server: polling, TLS, byte counts, and the state that compression needs."""
