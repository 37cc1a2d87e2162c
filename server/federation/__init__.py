"""Runs the coordinator over Flower: messages, checks, aggregation, versions, records of clients."""
