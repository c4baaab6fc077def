"""``python -m sdmatte``: the ``sdmatte`` command."""

import sys

from sdmatte.cli import main

sys.exit(main())
