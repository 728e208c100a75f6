"""Networks of timm by name. timm is imported when one is asked for: it takes seconds."""

from difflib import get_close_matches
from types import ModuleType
from typing import Any

PREFIX = "timm://"


def create_network(name: str, **options: Any) -> Any:
    """A timm network that gives a list of feature maps.

    Args:
        name: with or without a tag.
        **options: of ``timm.create_model``.

    Raises:
        ValueError: an unknown name, or a network that does not give feature maps.
    """
    timm = import_timm()
    check_name("MODEL.TIMM.NAME", name)
    if name.startswith("swin"):  # its windows fit any size, unless it insists on that of ImageNet
        options["strict_img_size"] = False
    try:
        return timm.create_model(name, features_only=True, **options)
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"MODEL.TIMM.NAME: got {name!r}, which gives no feature maps ({error}), expected a "
            "network that timm can build with features_only=True"
        ) from error


def check_name(key: str, name: str) -> None:
    """Raises a ValueError that names the key for a model, or a tag of one, that timm lacks."""
    timm = import_timm()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=5)
        raise ValueError(
            f"{key}: got {name!r}, expected a name in timm.list_models(); close ones: {close}"
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f"{key}: got {name!r}, expected {architecture} with one of the tags {tags}"
        )


def import_timm() -> ModuleType:
    """The timm package; it takes seconds to import, and not everyone needs it."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ImportError("MODEL.TIMM.NAME: timm is missing: pip install timm") from error
    return timm


def pixel_statistics(name: str, channel_order: str) -> dict[str, list[float]]:
    """``PIXEL_MEAN`` and ``PIXEL_STD``, for pixels of 0 to 255, of a network's pretrained weights.

    Args:
        name: with or without a tag.
        channel_order: "RGB", in which timm trains, or "BGR".
    """
    known = import_timm().get_pretrained_cfg(name)
    order = -1 if channel_order == "BGR" else 1
    return {
        f"PIXEL_{key}": [round(255 * x, 3) for x in values][::order]
        for key, values in (("MEAN", known.mean), ("STD", known.std))
    }
