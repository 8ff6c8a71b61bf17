"""``python -m semillie_core.cli``."""

import sys

from . import main

sys.exit(main())
