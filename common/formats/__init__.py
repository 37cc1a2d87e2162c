"""File and byte formats: atomic files, bundles of arrays, Zstandard frames, YAML."""
