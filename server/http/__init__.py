"""What the gateway and the status page share as HTTP servers."""
