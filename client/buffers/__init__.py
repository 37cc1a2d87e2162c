"""Buffers of events: the newest ones, those held back around incidents, and those to train on."""
