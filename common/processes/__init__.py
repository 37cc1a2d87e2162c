"""Child processes: how they are started and ended, and that all import the same packages."""
