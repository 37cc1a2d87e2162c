"""`python -m flockwatch`, the same as the command `flockwatch`."""

import sys

from flockwatch.cli import main

sys.exit(main())
