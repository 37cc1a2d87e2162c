"""The status page, `/metrics`, `/healthz`, and the alerts that clients post."""
