"""Losses that MONAI does not have, or not in this way; each is a module whose ``forward`` gives a scalar."""

from __future__ import annotations

from .adversarial import PatchAdversarialLoss
from .agreement import SoftAgreementLoss
from .dice_ce import DiceCELoss
from .gradicon import GradICONLoss
from .lncc import LNCCLoss
from .mind import MINDSSCLoss, mind_ssc
from .pose import PoseLoss
from .registration import RegistrationLoss

__all__ = [
    "DiceCELoss",
    "GradICONLoss",
    "LNCCLoss",
    "MINDSSCLoss",
    "PatchAdversarialLoss",
    "PoseLoss",
    "RegistrationLoss",
    "SoftAgreementLoss",
    "mind_ssc",
]
