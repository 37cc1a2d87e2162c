"""The pure core of the server: state and event in, state and actions out; no clock, socket or file."""
