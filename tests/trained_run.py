"""A trained run in miniature: every stage as a bundle on disk with random weights, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from crosswarp.data import Datalist, load_datalist
from crosswarp.files import file_digest
from crosswarp.places import STAGES
from crosswarp.runs import Chain
from crosswarp.runs.bundle import INFERENCE, WEIGHTS, write_json
from crosswarp.runs.config import read_config
from crosswarp.runs.published import write_inference_config
from crosswarp.runs.stage import claim_run
from crosswarp.training import save_atomically

ROOT = Path(__file__).parents[1]


def write_trained_run(
    run_dir: Path,
    datalist: Path,
    deformation: float = 0.0,
    seed: int = 0,
    downsampling: Sequence[int] = (1,),
    worsened_pairs: int = 48,
) -> Path:
    """Write what the chain leaves behind, with tiny networks.

    Args:
        run_dir: where to write.
        datalist: the data.
        deformation: scale of the last layer of the registration networks; with 0 they are the identity.
        seed: of the weights.
        downsampling: of the steps of the registration networks.
        worsened_pairs: of which the run learns what overlap to expect.

    Returns:
        `run_dir`.
    """
    torch.manual_seed(seed)
    data = load_datalist(datalist)
    claim_run(run_dir, data)
    values = {
        "spatial_dims": data.spatial_dims,
        "spatial_size": data.spatial_size,
        "num_classes": data.num_classes,
        "source_channels": data.source.channels,
        "target_channels": data.target.channels,
    }
    for name in STAGES:
        configs = ROOT / "bundles" / name / "configs"
        template = configs / "inference.json"
        definition = read_config(template)["network_def"]
        if "registration" in name:
            displacement = read_config(template)["displacement_network"]
            displacement |= {"down_channels": [4, 8], "up_channels": [4, 8]}
            networks = [displacement] * len(downsampling)
            definition |= {"networks": networks, "downsampling": list(downsampling)}
        else:
            definition |= {"channels": [4, 8], "strides": [2], "num_res_units": 1}
        folder = run_dir / name
        write_inference_config(template, values | {"network_def": definition}, folder)
        write_json(
            folder / "configs" / "train.json", trained_config(configs / "train.json", definition, data)
        )
        network = read_config(folder / INFERENCE).get_parsed_content("network_def")
        for module in network.modules() if "registration" in name and deformation else ():
            if hasattr(module, "head"):
                nn.init.normal_(module.head.weight, std=deformation)
        save_atomically(network.state_dict(), folder / WEIGHTS)
        manifest = {
            "state": "done",
            "weights": file_digest(folder / WEIGHTS),
            "time": "2026-01-31T12:00:00+0000",
        }
        manifest |= {"criterion": "val_dice", "value": 0.5, "epoch": 2}
        write_json(folder / "manifest.json", manifest)
        write_json(folder / "checkpoints" / "history.json", [{"epoch": e, "loss": 1 / e} for e in (1, 2, 3)])
    stages = dict.fromkeys(STAGES, {})
    Chain(
        stages, {}, str(ROOT / "bundles"), str(ROOT), str(run_dir), data, worsened_pairs=worsened_pairs
    ).publish()
    return run_dir


def trained_config(template: Path, definition: dict, data: Datalist) -> dict:
    """A stage's training config as the stage records it, shortened to a few steps with tiny networks."""
    config = read_config(template).get()
    config |= {"network_def": definition, "spatial_size": data.spatial_size, "datalist": str(data.path)}
    config |= {"max_epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "device": "cpu"}
    for part in ("source_to_target", "target_to_source"):
        if part in config:
            config[part] |= {"channels": [4, 8], "strides": [2]}
    for part in ("source_discriminator", "target_discriminator"):
        if part in config:
            config[part] |= {"channels": 4, "num_layers_d": 1}
    return config
