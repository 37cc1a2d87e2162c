"""Client keys and TLS certificates: reading, checking and fingerprints."""
