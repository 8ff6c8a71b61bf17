"""Recognize Anything (RAM, RAM++) and a small encoder that is always there.

One :class:`SemanticModel` tags images (:func:`tag_images`), guards an enhancement's content
(:func:`semantic_drift`) and feeds the semantic losses (its ``encoder`` is a :class:`SemanticEncoder`)::

    model = load_ram("models/rams/ram_plus_swin_large_14m.pth", device="cuda", dtype=torch.float16)
    for result in tag_images(model, images, TagOptions(exclude="photo*", max_tags=10)):
        print(result.text)

:func:`load_efficientnet_lite0` needs no file and no download; it is not RAM and knows ImageNet's 1000
classes.
"""

from .config import RAM_PLUS_SWIN_L, RAM_SWIN_L, RAMConfig
from .descriptor import SemanticModel, load_efficientnet_lite0, recommended_dtype
from .download import download_ram
from .encoders import EfficientNetLite0Encoder, RAMEncoder, SemanticEncoder, SemanticFeatures
from .loading import RAMFileError, find_ram_files, load_ram
from .model import RAM
from .tag_file import TagFileError, TagFileResult, tag_into_file, write_tag_csv
from .tagging import DriftReport, Tag, TagChange, TagOptions, TagResult, semantic_drift, tag_images
from .vocabulary import Vocabulary, imagenet_vocabulary, ram_vocabulary

__all__ = [
    "RAM",
    "RAM_PLUS_SWIN_L",
    "RAM_SWIN_L",
    "DriftReport",
    "EfficientNetLite0Encoder",
    "RAMConfig",
    "RAMEncoder",
    "RAMFileError",
    "SemanticEncoder",
    "SemanticFeatures",
    "SemanticModel",
    "Tag",
    "TagChange",
    "TagFileError",
    "TagFileResult",
    "TagOptions",
    "TagResult",
    "Vocabulary",
    "download_ram",
    "find_ram_files",
    "imagenet_vocabulary",
    "load_efficientnet_lite0",
    "load_ram",
    "ram_vocabulary",
    "recommended_dtype",
    "semantic_drift",
    "tag_images",
    "tag_into_file",
    "write_tag_csv",
]
