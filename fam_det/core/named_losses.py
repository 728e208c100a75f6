"""The losses between two feature maps that a config can name."""

from collections.abc import Callable

from torch import Tensor

from fam_det.core.losses import ValidSizes, hierarchical_context_loss, mse_loss
from fam_det.core.peer_losses import pearson_loss
from fam_det.core.spectral_losses import spectral_correlation_loss

LOSSES: dict[str, Callable[[Tensor, Tensor, ValidSizes | None], Tensor]] = {
    "mse": mse_loss,
    "hierarchical": hierarchical_context_loss,
    "pearson": pearson_loss,
    "spectral_correlation": spectral_correlation_loss,
}
