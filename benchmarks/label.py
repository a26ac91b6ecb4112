"""Dice of what MONAI Label serves of a trained run, before and after it has learnt from corrected labels.

    .venv-label/bin/python benchmarks/label.py --run runs/demo --zips runs/demo/label/dist --corrected 5

Test images are the datastore. Target labels of the first `--corrected` of them are saved as an annotator
would save them; Dice is of the others. The run is copied, and the copy is trained.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from apps.monailabel.serve import APPS, SERVED, install
from crosswarp.data import load_datalist
from tests.label.server import Client, serving

Records = Sequence[dict[str, str]]


def load(path: str | Path) -> np.ndarray:
    return np.squeeze(np.asarray(nib.load(path).dataobj))


def dice(label: np.ndarray, truth: np.ndarray, classes: int) -> list[float]:
    """Of each class but the background; NaN where neither has it."""
    pairs = [(label == k, truth == k) for k in range(1, classes)]
    return [2 * np.sum(a & b) / n if (n := np.sum(a) + np.sum(b)) else np.nan for a, b in pairs]


def identifier(record: dict[str, str]) -> str:
    return Path(record["image"]).name.removesuffix(".nii.gz")


def measure(client: Client, out: Path, classes: int, source: Records, target: Records) -> None:
    """Print mean Dice of the segmentations and of registrations with the moving image's manual label."""
    rows: dict[str, list[list[float]]] = {"source_segmentation": [], "domain_adaptation": [], "crosswarp": []}
    start = time.perf_counter()
    for model, records in (("source_segmentation", source), ("domain_adaptation", target)):
        for record in records:
            file, _ = client.infer(model, identifier(record), out)
            served, image = nib.load(file), nib.load(record["image"])
            assert served.shape == (*image.shape, 1)[:3] and np.allclose(
                served.affine, image.affine, atol=1e-5
            )
            rows[model].append(dice(load(file), load(record["label"]), classes))
    for moving, fixed in zip(source, target, strict=False):
        file, _ = client.infer("crosswarp", identifier(fixed), out, moving=identifier(moving))
        rows["crosswarp"].append(dice(load(file), load(fixed["label"]), classes))
    requests = sum(map(len, rows.values()))
    for model, values in rows.items():
        means = np.nanmean(values, axis=0)
        text = " ".join(f"{value:.3f}" for value in (*means, means.mean()))
        print(f"{model:20s} {len(values):3d} images or pairs, Dice by class and mean: {text}", flush=True)
    print(f"{(time.perf_counter() - start) / requests:.2f} s per request", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--zips", type=Path, required=True)
    parser.add_argument("--corrected", type=int, default=5)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    run = shutil.copytree(options.run, folder / "run", ignore=shutil.ignore_patterns("label", "dist"))
    data = load_datalist(json.loads((run / "run.json").read_text())["datalist"])
    zips = [path for name in SERVED for path in options.zips.glob(f"{name}_v*.zip")]
    app = install(APPS["crosswarp"], zips, folder / "app")
    studies, out = folder / "studies", folder / "out"
    studies.mkdir(), out.mkdir()
    for record in (*data.source.test, *data.target.test):
        shutil.copy(record["image"], studies)
    corrected, target = data.target.test[: options.corrected], data.target.test[options.corrected :]
    with serving(app, studies, SERVED, "--conf", "run", str(run)) as client:
        for record in data.source.test:
            info = {"info": json.dumps({"modality": "source"})}
            client.request("PUT", "datastore/image/info", params={"image": identifier(record)}, data=info)
            client.save_label(identifier(record), Path(record["label"]))
        measure(client, out, data.num_classes, data.source.test, target)
        for record in corrected:
            client.save_label(identifier(record), Path(record["label"]))
        for model in ("domain_adaptation", "crosswarp"):
            start = time.perf_counter()
            client.train(model)
            print(f"trained {model} in {time.perf_counter() - start:.0f} s", flush=True)
        measure(client, out, data.num_classes, data.source.test, target)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
