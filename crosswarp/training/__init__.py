"""What trains the stages: engines, handlers, augmentation, pools, and the checks of what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .adaptation import AdaptationTrainer, ImagePool, ZipBatches, together
    from .adaptation_check import AdaptationCheck
    from .augmentation import (
        RandomConvolution,
        RandomCurve,
        RandomField,
        RandomFieldOfView,
        RandomMask,
        RandomNoise,
        RandomOverlay,
        RandomSpatial,
        RandomSpectrum,
    )
    from .augmented import AugmentedSamples
    from .determinism import use_deterministic
    from .guard import TrainingError, TrainingGuard
    from .guided_filter import GuidedFilter
    from .handlers import (
        LAST_EPOCH,
        AddSteps,
        Checkpoints,
        EpochProgress,
        LoadWhole,
        SeedEpochs,
        save_atomically,
    )
    from .label_pools import label_pool
    from .label_prior import LabelPrior
    from .parallel import DistributedDataParallel
    from .pose import PoseLearner
    from .precision import AutocastInferer, fast_bfloat16
    from .pseudo_labels import PseudoLabels
    from .registration import PreparePairs
    from .result_checks import RegistrationCheck, SegmentationCheck
    from .threads import choose_threads
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "LAST_EPOCH",
    "AdaptationCheck",
    "AdaptationTrainer",
    "AddSteps",
    "AugmentedSamples",
    "AutocastInferer",
    "Checkpoints",
    "DistributedDataParallel",
    "EpochProgress",
    "GuidedFilter",
    "ImagePool",
    "LabelPrior",
    "LoadWhole",
    "PoseLearner",
    "PreparePairs",
    "PseudoLabels",
    "RandomConvolution",
    "RandomCurve",
    "RandomField",
    "RandomFieldOfView",
    "RandomMask",
    "RandomNoise",
    "RandomOverlay",
    "RandomSpatial",
    "RandomSpectrum",
    "RegistrationCheck",
    "SeedEpochs",
    "SegmentationCheck",
    "TrainingError",
    "TrainingGuard",
    "ZipBatches",
    "choose_threads",
    "fast_bfloat16",
    "label_pool",
    "save_atomically",
    "together",
    "use_deterministic",
]
