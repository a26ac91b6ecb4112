"""Losses that MONAI does not have; each is a module whose ``forward`` gives a scalar."""

from __future__ import annotations

from .agreement import SoftAgreementLoss
from .gradicon import GradICONLoss
from .lncc import LNCCLoss
from .registration import RegistrationLoss

__all__ = ["GradICONLoss", "LNCCLoss", "RegistrationLoss", "SoftAgreementLoss"]
