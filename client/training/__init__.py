"""The trainer: it evaluates versions on this client's rows, trains them, and personalises them."""
