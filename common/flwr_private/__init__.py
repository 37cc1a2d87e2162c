"""Every private name of Flower that flockwatch uses, in this one room.

flwr is pinned to one minor version; `tests/common/flwr_private/test_names.py` says which names an upgrade
must still have. Each file loads only what it needs itself, so that a client holds nothing of SuperLink's.
"""
