"""Codecs for updates, one in each module; `codec.Codec` is their interface, `choice` finds one by name."""
