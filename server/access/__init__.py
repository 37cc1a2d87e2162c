"""Access control: the gateway, its TLS listener, and the roster of registered client keys."""
