"""Video files on disk: their pictures in order, with timing, orientation, colours, depth and sound.

Reading and writing need PyAV, which the extra ``cli`` installs; importing this room does not.
"""

from .reading import Picture, Video, VideoError, load_av
from .writing import CONTAINERS, write_video

__all__ = ["CONTAINERS", "Picture", "Video", "VideoError", "load_av", "write_video"]
