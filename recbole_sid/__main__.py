"""``python -m recbole_sid``: the command line."""

import sys

from recbole_sid.cli import main

sys.exit(main())
