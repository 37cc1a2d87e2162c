"""The base class of errors that the user can correct."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user gave is wrong: a setting, a file, an address, a certificate.

    The command line prints its message without a traceback and exits with code 2. The message names what is
    wrong and where, and what was expected.
    """
