"""``python -m everstep``: the same as the `everstep` command."""

import sys

from everstep.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
