"""Registration with uniGradICON."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...files import file_digest
from ...spatial.grid import Grid
from ...spatial.itk import itk_image
from ...spatial.physical import total_displacement_field
from .pairwise import Array, PairwiseMethod, array_of_field


class UniGradICON(PairwiseMethod):
    """A network trained on volumes of many parts of the body, tuned to each pair.

    Nothing is downloaded: the weights are a file, `Step_2_final.trch` of a release of uniGradICON or of
    multiGradICON.

    Args:
        weights: the file; None where there is none.
        spatial_dims: of the images; it is for 3.
        size: of the volumes that the network sees, voxels along each axis.
        steps: of tuning to a pair (instance optimisation); 0 for none.
        similarity: that this maximises, ``"lncc"``, ``"lncc2"`` or ``"mind"``.

    References:
        Tian et al., "uniGradICON: a foundation model for medical image registration", MICCAI 2024; Demir et
        al., "multiGradICON: a foundation model for multimodal medical image registration", WBIR 2024.
    """

    network: Any

    def __init__(
        self,
        weights: str | None,
        spatial_dims: int,
        size: int = 175,
        steps: int = 50,
        similarity: str = "lncc",
    ) -> None:
        self.weights, self.spatial_dims, self.size = weights, spatial_dims, size
        self.steps, self.similarity, self.digest = steps, similarity, ""

    def unavailable(self) -> str | None:
        """Names what is missing: the package, the weights, the third dimension.

        Raises:
            FileNotFoundError: for weights that are not there.
        """
        if self.spatial_dims != 3:
            return f"it registers volumes, not images of {self.spatial_dims} dimensions"
        for name in ("unigradicon", "icon_registration", "tqdm"):
            if find_spec(name) is None:
                return f"{name} is not installed (pip install --no-deps unigradicon icon-registration tqdm)"
        if self.weights is None:
            return "its weights are not given, and not downloaded: give --unigradicon_weights FILE"
        if not Path(self.weights).is_file():
            raise FileNotFoundError(f"Expected weights of uniGradICON that are not there: {self.weights}.")
        return None

    def load(self) -> None:
        """Read the network."""
        from icon_registration import config
        from unigradicon import make_network, make_sim

        shape, path = [1, 1, *[self.size] * 3], Path(str(self.weights))
        self.network = make_network(shape, include_last_step=True, loss_fn=make_sim(self.similarity))
        weights = torch.load(path, map_location="cpu", weights_only=True)
        self.network.regis_net.load_state_dict(weights)
        self.digest, self.device = file_digest(path), torch.device(config.device)
        self.network.to(self.device).eval()

    def displacements(self, moving: Array, fixed: Array, spacing: Sequence[float]) -> Array:
        """Those of the package's transform."""
        from icon_registration.itk_wrapper import register_pair

        frame = Grid(fixed.shape, np.diag([*spacing, 1.0]))
        images = [itk_image(values, frame) for values in (moving, fixed)]
        with torch.inference_mode(False), torch.enable_grad(), redirect_stdout(io.StringIO()):
            found = register_pair(self.network, *images, finetune_steps=self.steps or None)[0]
        return array_of_field(total_displacement_field(found, frame))
