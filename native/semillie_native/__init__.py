"""Compiled selective scan of Semi-LLIE: one shared library with a C interface, for any Python and torch.

The library picks its code for the machine's instruction set when it is called. Its interface is described in
``src/semillie_scan.h`` of the source folder.
"""

import sys
from pathlib import Path

__all__ = ["LIBRARY"]

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")

LIBRARY = Path(__file__).resolve().parent / f"semillie_scan{_SUFFIX}"
"""Path of the shared library."""
