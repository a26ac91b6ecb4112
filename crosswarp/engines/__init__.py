"""Ignite engines, batch preparation and handlers of the four stages."""

from .adaptation import AdaptationTrainer, ImagePool, ZipBatches
from .guard import TrainingError, TrainingGuard
from .handlers import AddSteps, Checkpoints, EpochProgress, SeedEpochs, save_atomically
from .precision import AutocastInferer, fast_bfloat16
from .registration import PreparePairs

__all__ = [
    "AdaptationTrainer",
    "AddSteps",
    "AutocastInferer",
    "Checkpoints",
    "EpochProgress",
    "ImagePool",
    "PreparePairs",
    "SeedEpochs",
    "TrainingError",
    "TrainingGuard",
    "ZipBatches",
    "fast_bfloat16",
    "save_atomically",
]
