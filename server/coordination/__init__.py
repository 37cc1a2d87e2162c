"""The pure core of the server: a state, events and actions; no clock, socket or file."""
