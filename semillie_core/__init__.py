"""Semi-LLIE: low-light image enhancement with a state-space network.

Everything the ComfyUI nodes, the command line and the training scripts do is done here. The package never
imports ComfyUI, and importing it does not import torch: each room (``network``, ``scan``, ``weights``,
``inference``, ``metrics``, ``ram``, ``training``, ...) is imported when it is used.
"""

__version__ = "0.1.0"
