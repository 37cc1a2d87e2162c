"""Flower's SuperLink as flockwatch runs it: `python -m server.superlink`, with `flower-superlink`'s flags."""

from __future__ import annotations

from common.flwr_private.superlink import main

if __name__ == "__main__":
    main()
