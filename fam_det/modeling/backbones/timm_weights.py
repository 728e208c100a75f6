"""``timm://mobilenetv3_small_100``: timm's pretrained weights for ``TimmBackbone``."""

from typing import Any

from torch import Tensor

from fam_det.modeling.backbones.pretrained_weights import ImageNetHandler
from fam_det.modeling.backbones.timm_networks import PREFIX, check_name, import_timm

from detectron2.utils.file_io import PathManager


class TimmHandler(ImageNetHandler):
    """Resolves ``timm://NAME`` or ``timm://NAME.TAG``, the default weights or those of a tag."""

    prefix = PREFIX

    def check(self, name: str) -> None:
        """Raises a ValueError for a name that timm lacks."""
        check_name("MODEL.WEIGHTS", name)

    def weights(self, name: str) -> dict[str, Tensor]:
        """The weights as ``TimmBackbone`` names them, wherever that is in a model."""
        return {f"network.{key}": value for key, value in download(name).items()}


def download(name: str) -> dict[str, Tensor]:
    """The feature network's pretrained weights, from the Hugging Face hub or its cache.

    Raises:
        OSError: no network and not in the cache.
        ValueError: timm has no weights for it.
    """
    timm = import_timm()
    if not timm.is_model_pretrained(name):
        raise ValueError(f"MODEL.WEIGHTS: got {PREFIX}{name}, for which timm has no weights")
    try:
        network: Any = timm.create_model(name, features_only=True, pretrained=True)
    except OSError as error:  # every error of a connection, and of a cache without the file
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{PREFIX}{name}: cannot download ({reason}); on a machine without network set HF_HOME "
            f"to a copy of that folder from one that ran timm.create_model({name!r}, "
            "pretrained=True)"
        ) from error
    state_dict: dict[str, Tensor] = network.state_dict()
    return state_dict


PathManager.register_handler(TimmHandler(), allow_override=True)
