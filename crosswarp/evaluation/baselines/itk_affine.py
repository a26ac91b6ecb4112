"""Affine registration with the registration framework of ITK."""

from __future__ import annotations

from collections.abc import Sequence

import itk
import numpy as np

from ...spatial.grid import Grid
from ...spatial.itk import itk_image
from ...spatial.physical import total_displacement_field
from .pairwise import Array, PairwiseMethod, array_of_field


class ITKAffine(PairwiseMethod):
    """Mattes mutual information, regular-step gradient descent, coarse to fine; all points are used.

    Args:
        bins: of the histogram.
        shrink_factors: of each level, coarse to fine.
        smoothing_sigmas: of each level, voxels.
        iterations: most of them in a level.
    """

    def __init__(
        self,
        bins: int = 32,
        shrink_factors: Sequence[int] = (2, 1),
        smoothing_sigmas: Sequence[float] = (1.0, 0.0),
        iterations: int = 200,
    ) -> None:
        self.bins, self.iterations = bins, iterations
        self.shrink_factors, self.smoothing_sigmas = list(shrink_factors), list(smoothing_sigmas)

    def displacements(self, moving: Array, fixed: Array, spacing: Sequence[float]) -> Array:
        """Those of the affine transform, about the centre of the image."""
        dims = fixed.ndim
        frame = Grid(fixed.shape, np.diag([*spacing, 1.0]))
        images = [itk_image(values, frame) for values in (fixed, moving)]
        kind = type(images[0])
        metric = itk.MattesMutualInformationImageToImageMetricv4[kind, kind].New()
        metric.SetNumberOfHistogramBins(self.bins)
        scales = itk.RegistrationParameterScalesFromPhysicalShift[type(metric)].New()
        scales.SetMetric(metric)
        optimizer = itk.RegularStepGradientDescentOptimizerv4[itk.D].New()
        optimizer.SetNumberOfIterations(self.iterations)
        optimizer.SetScalesEstimator(scales)
        optimizer.SetMinimumStepLength(1e-3)
        optimizer.SetReturnBestParametersAndValue(True)
        optimizer.SetDoEstimateLearningRateAtEachIteration(False)
        optimizer.SetDoEstimateLearningRateOnce(True)  # so that the first step is one voxel
        start = itk.AffineTransform[itk.D, dims].New()
        start.SetCenter([(size - 1) / 2 * step for size, step in zip(fixed.shape, spacing, strict=True)])
        registration = itk.ImageRegistrationMethodv4[kind, kind].New()
        registration.SetFixedImage(images[0])
        registration.SetMovingImage(images[1])
        registration.SetMetric(metric)
        registration.SetOptimizer(optimizer)
        registration.SetInitialTransform(start)
        registration.InPlaceOn()
        registration.SetNumberOfLevels(len(self.shrink_factors))
        registration.SetShrinkFactorsPerLevel(self.shrink_factors)
        registration.SetSmoothingSigmasPerLevel(self.smoothing_sigmas)
        registration.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
        registration.Update()
        return array_of_field(total_displacement_field(start, frame))
