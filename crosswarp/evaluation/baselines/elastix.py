"""Registration with elastix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import itk
import numpy as np

from ...spatial.grid import Grid
from ...spatial.itk import itk_image
from .pairwise import Array, PairwiseMethod, array_of_field


class Elastix(PairwiseMethod):
    """A chain of elastix registrations, each starting from the one before.

    Args:
        maps: names of elastix's default parameter maps, such as ``"affine"``, ``"bspline"``.
        parameters: of elastix, to replace in the map of a name, ``{"bspline": {"Metric0Weight": 1}}``.

    References:
        Klein et al., "elastix: a toolbox for intensity-based medical image registration", IEEE TMI 29, 2010.
    """

    def __init__(
        self, maps: Sequence[str], parameters: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.maps, self.parameters = list(maps), dict(parameters or {})

    def unavailable(self) -> str | None:
        """Names the package that is missing."""
        if "ElastixRegistrationMethod" in dir(itk):
            return None
        return "itk-elastix is not installed (pip install itk-elastix)"

    def displacements(self, moving: Array, fixed: Array, spacing: Sequence[float]) -> Array:
        """Those of the whole chain."""
        frame = Grid(fixed.shape, np.diag([*spacing, 1.0]))
        images = [itk_image(values, frame) for values in (fixed, moving)]
        settings = itk.ParameterObject.New()
        for name in self.maps:
            values = dict(settings.GetDefaultParameterMap(name))
            for key, value in self.parameters.get(name, {}).items():
                listed = value if isinstance(value, (list, tuple)) else [value]
                values[key] = tuple(str(each) for each in listed)
            settings.AddParameterMap(values)
        _, transform = itk.elastix_registration_method(
            *images, parameter_object=settings, log_to_console=False
        )
        with TemporaryDirectory() as folder:  # transformix writes the field to a file, too
            field = itk.transformix_deformation_field(
                images[1], transform, log_to_console=False, output_directory=folder
            )
        return array_of_field(field).astype(np.float64)
