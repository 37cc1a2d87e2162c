"""Streams of events: lines of JSON or CSV, the features that they have, and their decoding."""
