"""The status server: status page, metrics, health check, and the notices that clients post."""
