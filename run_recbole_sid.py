"""Entry point: without arguments the quick start on ml-100k; see `python run_recbole_sid.py --help`."""

import sys

from recbole_sid.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["quick-start"]))
