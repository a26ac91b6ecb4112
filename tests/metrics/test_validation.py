from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.handlers import from_engine

from crosswarp.metrics import FoldPercent, MeanLoss, RegistrationDice, image_meta
from crosswarp.spatial import from_voxel_displacement, identity_map


def shifted_pair(spatial: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two maps (right, and identity) and labels of a block shifted by 2 of its 4 layers."""
    displacement = torch.zeros(2, len(spatial), *spatial)
    displacement[0, 0] = 2
    moving = torch.zeros(2, 1, *spatial)
    moving[:, :, 4:8] = 1
    return from_voxel_displacement(displacement), torch.cat([moving, moving.roll(-2, 2)], 1)


@pytest.mark.parametrize("spatial", [(12, 5), (12, 4, 3)])
def test_registration_dice_by_hand(spatial: tuple[int, ...]) -> None:
    phi, labels = shifted_pair(spatial)
    metric = RegistrationDice(num_classes=3)
    torch.testing.assert_close(
        metric(phi, labels), torch.tensor([[1.0, torch.nan], [0.5, torch.nan]]), equal_nan=True
    )
    assert metric.aggregate().item() == pytest.approx(0.75)
    assert metric.get_buffer().isnan().sum() == 2, "aggregation leaves the details alone"
    metric.reset()
    metric(list(phi), list(labels))  # decollated
    assert metric.aggregate().item() == pytest.approx(0.75)


def test_registration_dice_averages_classes_first_and_ignores_absent_ones() -> None:
    fixed = torch.tensor([[[1.0, 1, 2, 2]], [[1, 1, 0, 0]]])[:, None]
    moving = torch.tensor([[[1.0, 1, 0, 0]], [[1, 1, 2, 0]]])[:, None]
    metric = RegistrationDice(num_classes=3)
    metric(identity_map((1, 4)).expand(2, -1, -1, -1), torch.cat([moving, fixed], 1))
    # first pair: 1 and 0; second: 1 and absent
    assert metric.aggregate().item() == pytest.approx((0.5 + 1) / 2)


def test_registration_dice_is_zero_where_nothing_is_measured() -> None:
    metric = RegistrationDice(num_classes=2)
    metric(identity_map((4, 4)), torch.zeros(1, 2, 4, 4))
    assert metric.aggregate().item() == 0


@pytest.mark.parametrize("labels", [None, torch.zeros(1, 1, 4, 4)])
def test_registration_dice_asks_for_both_labels(labels: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="moving then fixed"):
        RegistrationDice(num_classes=2)(identity_map((4, 4)), labels)


def test_fold_percent_by_hand() -> None:
    identity = identity_map((5, 4))
    metric = FoldPercent()
    torch.testing.assert_close(
        metric(torch.cat([identity, identity.flip(2)])), torch.tensor([[0.0], [100.0]])
    )
    assert metric.aggregate().item() == 50
    metric.reset()
    metric([identity[0]], [torch.zeros(2, 5, 4)])
    assert metric.aggregate().item() == 0


def test_both_serve_as_ignite_metrics_declared_in_json() -> None:
    handlers = ConfigParser(
        {
            "dice": {
                "_target_": "IgniteMetricHandler",
                "metric_fn": {"_target_": "crosswarp.metrics.RegistrationDice", "num_classes": 2},
                "output_transform": from_engine(["pred", "label"]),
            },
            "folds": {
                "_target_": "IgniteMetricHandler",
                "metric_fn": {"_target_": "crosswarp.metrics.FoldPercent"},
                "output_transform": from_engine(["pred", "label"]),
            },
        }
    )
    phi, labels = shifted_pair((12, 5))
    batches = [
        [{"pred": phi[i], "label": labels[i]}] for i in range(2)
    ]  # decollated, as MONAI's evaluators give
    engine = Engine(lambda _, batch: batch)
    for name in ("dice", "folds"):
        handlers.get_parsed_content(name).attach(engine, name)
    engine.run(batches)
    assert engine.state.metrics["dice"] == pytest.approx(0.75)
    assert engine.state.metrics["folds"] == 0
    assert engine.state.metric_details["dice"].flatten().tolist() == pytest.approx([1, 0.5])


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps():
    engine = Engine(lambda _, value: {"loss": torch.tensor(value, requires_grad=True)})
    MeanLoss("cpu").attach(engine, "loss")
    assert engine.run([1.0, 2.0, 6.0]).metrics["loss"] == pytest.approx(3.0)


def test_images_of_a_batch_are_named_and_pairs_are_not():
    images = [MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": name}) for name in ("a", "b")]
    found = image_meta([{"image": image} for image in images])
    assert [meta["filename_or_obj"] for meta in found] == ["a", "b"]
    assert image_meta({"moving_image": torch.zeros(2, 1, 2, 2)}) == []
