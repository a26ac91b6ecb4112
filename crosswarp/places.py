"""The library's bundles, and where they are: beside its code in a checkout or zip, or installed in it."""

from __future__ import annotations

from pathlib import Path

META = "crosswarp"
STAGES = ("registration_augmentation", "source_segmentation", "domain_adaptation", "multimodal_registration")

CODE = Path(__file__).resolve().parent
INSTALLED = "bundle"  # the folder of an installed package that holds what a checkout has at its root

# the meta bundle: configs/, docs/, LICENSE and, in bundles/, the stages
ROOT = CODE / INSTALLED if (CODE / INSTALLED).is_dir() else CODE.parent
