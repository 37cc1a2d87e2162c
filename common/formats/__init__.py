"""File and byte formats: atomic files, bundles of arrays, YAML."""
