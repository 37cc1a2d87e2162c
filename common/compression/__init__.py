"""Codecs for updates: one file each, one contract (`codec.Codec`); `choice` finds one by its name."""
