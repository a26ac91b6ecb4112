"""MONAI's own tools on an unpacked bundle: `test_packaged.py` runs this in its folder, from standard input.

Takes the datalist, the folder of a run and a folder for exports. The bundle's `scripts` is the only code of
ours that is used, whatever is installed.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from monai.bundle import (
    ckpt_export,
    create_workflow,
    load,
    onnx_export,
    run,
    verify_metadata,
    verify_net_in_out,
)

DATALIST, RUN, OUT = sys.argv[1:]
NAME = Path.cwd().name
INFERENCE, METADATA, WEIGHTS = "configs/inference.json", "configs/metadata.json", "models/model.pt"
NETWORK = {"net_id": "network_def", "meta_file": METADATA, "config_file": INFERENCE}

# what ci/verify_bundle.py of Project-MONAI/model-zoo runs, here and with `ckpt_export` below
verify_metadata(meta_file=METADATA, filepath="scripts/release/meta_schema_20240725.json")
verify_net_in_out(**NETWORK)

network = load(NAME, bundle_dir="..", workflow_type="inference").eval()
for key, value in torch.load(WEIGHTS, weights_only=True).items():
    assert torch.equal(network.state_dict()[key], value), key
assert type(network).__module__.partition(".")[0] in ("monai", "scripts")

image = json.loads(Path(METADATA).read_text())["network_data_format"]["inputs"]["image"]
shape = [image["num_channels"], *image["spatial_shape"]]
random = torch.Generator().manual_seed(0)
single, batch = (torch.rand(number, *shape, generator=random) for number in (1, 2))
with torch.inference_mode():
    expected, expected_batch = network(single), network(batch)

# maps and probabilities are within about [0, 1], logits within tens: 1e-4 is far below what can be seen
close = {"rtol": 1e-4, "atol": 1e-4}
ckpt_export(**NETWORK, ckpt_file=WEIGHTS, filepath=f"{OUT}/{NAME}.ts")
torchscript = torch.jit.load(f"{OUT}/{NAME}.ts")
with torch.inference_mode():
    torch.testing.assert_close(torchscript(single), expected, **close)
    torch.testing.assert_close(torchscript(batch), expected_batch, **close)

onnx_export(**NETWORK, ckpt_file=WEIGHTS, filepath=f"{OUT}/{NAME}.onnx")
session = onnxruntime.InferenceSession(f"{OUT}/{NAME}.onnx")
(entry,) = session.get_inputs()
(output,) = session.run(None, {entry.name: single.numpy()})
np.testing.assert_allclose(output, expected.numpy(), **close)

folder = Path(DATALIST).parent
place = {"datalist": DATALIST, "run_dir": RUN, "device": "$torch.device('cpu')"}
warm, cold = (sorted(map(str, folder.glob(f"images/{name}test*.nii.gz"))) for name in ("warm", "cold"))
warm_labels, cold_labels = ([path.replace("images", "labels") for path in paths] for paths in (warm, cold))
inputs = {
    "registration_augmentation": {"moving": warm[0], "fixed": warm[1], "moving_label": warm_labels[0]},
    "source_segmentation": {"images": warm},
    "domain_adaptation": {"images": cold},
    "multimodal_registration": {"moving": warm_labels[0], "fixed": cold_labels[0]},
    "crosswarp": {"moving": warm[0], "fixed": cold[0]},
}[NAME]
assert create_workflow(config_file=INFERENCE, workflow_type="infer", **inputs).check_properties() == []
run(config_file=INFERENCE, output_dir=f"{OUT}/{NAME}", **inputs)
if NAME == "crosswarp":
    run(config_file="configs/train.json", **place)
    run(config_file="configs/evaluate.json", max_pairs=2, **place)
else:
    files = ["configs/train.json", "configs/evaluate.json"]
    run(config_file=files, **place)
    assert Path("evaluation/metrics.csv").is_file()  # of the weights in the bundle
    workflow = create_workflow(config_file=files[0], workflow_type="train", **place)
    assert workflow.check_properties() == []
    run(config_file=[files[0], "configs/presets/fine_tune.json"], **place)
    run(config_file=files, stage_dir=f"{RUN}/{NAME}", **place)
    assert Path(RUN, NAME, "evaluation", "metrics.csv").is_file()  # of those just trained
assert not any(name.partition(".")[0] == "crosswarp" for name in sys.modules)
