"""The method of FAM-KD in plain PyTorch: imports torch and nothing else."""

from fam_det.core.frequency_attention import FAMOptions, FrequencyAttention
from fam_det.core.fusion import AttentionBasedFusion, WindowCrossAttention
from fam_det.core.high_pass import high_pass_response
from fam_det.core.losses import (
    hierarchical_context_loss,
    mse_loss,
    pearson_loss,
    spectral_correlation_loss,
)
from fam_det.core.released_weights import load_released
from fam_det.core.review import KnowledgeReview, LayerToLayer, ReviewBlock

__all__ = [
    "AttentionBasedFusion",
    "FAMOptions",
    "FrequencyAttention",
    "KnowledgeReview",
    "LayerToLayer",
    "ReviewBlock",
    "WindowCrossAttention",
    "hierarchical_context_loss",
    "high_pass_response",
    "load_released",
    "mse_loss",
    "pearson_loss",
    "spectral_correlation_loss",
]
