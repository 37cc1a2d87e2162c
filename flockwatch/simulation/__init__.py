"""A whole federation on one machine: generated or divided data, and its report."""
