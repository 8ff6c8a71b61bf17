"""The selective scan (Mamba's S6 recurrence), one interface over several backends.

* :func:`selective_scan` is the one-dimensional scan with the argument names of the Mamba paper's code.
* :func:`selective_scan_2d` is the fused four-direction form that the network calls.

See :mod:`.backends` for how a backend is chosen.
"""

from .backends import BACKEND_ENV, available_backends, resolve_backend
from .functional import selective_scan, selective_scan_2d

__all__ = ["BACKEND_ENV", "available_backends", "resolve_backend", "selective_scan", "selective_scan_2d"]
