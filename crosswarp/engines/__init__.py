"""Ignite engines, batch preparation and handlers of the four stages."""

from .adaptation import AdaptationTrainer, ImagePool, ZipBatches
from .handlers import AddSteps, Checkpoints, EpochProgress, SeedEpochs, save_atomically
from .registration import PreparePairs

__all__ = [
    "AdaptationTrainer",
    "AddSteps",
    "Checkpoints",
    "EpochProgress",
    "ImagePool",
    "PreparePairs",
    "SeedEpochs",
    "ZipBatches",
    "save_atomically",
]
