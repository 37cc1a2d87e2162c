"""HTTP servers with limits, shared by the gateway and the status page."""
