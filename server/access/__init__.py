"""Who may connect: the gateway with its listener, and the registered keys."""
