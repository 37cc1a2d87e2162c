"""Versions on a client: the store on disk, the trial of a new one, and drift of the stream."""
