"""Runs the coordinator over Flower: messages, admission, aggregation, versions, and records of clients."""
