"""`flockwatch evaluate`: how well a fleet detects anomalies in labelled files (`docs/quality.md`)."""
