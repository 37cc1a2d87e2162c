"""`make bench-watch`: does a fleet keep watch from an empty state folder on? See `__main__.py`."""
