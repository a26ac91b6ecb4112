"""The plain steps compute what the library's steps compute."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss, PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator, UNet
from plain import AdaptationStep, gradicon, lncc, register, registration_loss

from crosswarp.losses import GradICONLoss, LNCCLoss, RegistrationLoss
from crosswarp.networks import DisplacementUNet, MultiStepRegistration, TranslationGenerator
from crosswarp.spatial import identity_map
from crosswarp.training import AdaptationTrainer, ImagePool

SHAPE = (32, 24)


def registration_network(factors):
    torch.manual_seed(1)
    networks = [DisplacementUNet(2, 2, (4, 8), (4, 8)) for _ in factors]
    for network in networks:
        torch.nn.init.normal_(network.head.weight, std=0.05)
    return MultiStepRegistration(networks, factors, image_channels=1).eval()


@pytest.mark.parametrize("factors", [[1], [4, 2, 1]])
def test_maps_and_losses_of_registration_agree(factors):
    network, images = registration_network(factors), torch.rand(4, 1, *SHAPE)
    first, second = images.chunk(2)
    ours = network(torch.cat([images, torch.cat([second, first])], dim=1))
    grid = identity_map(SHAPE).expand(2, -1, -1, -1)
    phi, psi = register(network, first, second), register(network, second, first)
    torch.testing.assert_close(phi(grid), ours[:2])
    torch.testing.assert_close(psi(grid), ours[2:])
    assert (ours - identity_map(SHAPE)).abs().max() > 0.01

    noise = 0.02 * torch.randn(2, 2, 16, 12)
    points = grid[..., ::2, ::2] + noise
    regularity = GradICONLoss()(ours[:2], ours[2:], noise)
    # composed steps are interpolated one by one, the map of all of them as a whole
    torch.testing.assert_close(
        gradicon(phi, psi, points), regularity, rtol=1e-3 if factors == [1] else 0.3, atol=0
    )

    torch.testing.assert_close(lncc(first, second), LNCCLoss()(first, second))
    loss, _ = registration_loss(network, first, second, lncc, regularity_weight=0.0)
    torch.testing.assert_close(loss, RegistrationLoss(LNCCLoss(), GradICONLoss(), 0.0)(ours, images))


def test_the_terms_of_adaptation_agree():
    torch.manual_seed(2)

    def segmentation():
        return UNet(2, 1, 3, (4, 8), (2,), num_res_units=1)

    def generator():
        return TranslationGenerator(2, 1, 1, channels=4, num_downsamples=1, num_blocks=1)

    def discriminator():
        return PatchDiscriminator(2, 4, 1, num_layers_d=1, norm="INSTANCE")

    networks = {f"{m}_segmentation": segmentation() for m in ("source", "target")}
    networks |= {"source_to_target": generator(), "target_to_source": generator()}
    networks |= {f"{m}_discriminator": discriminator() for m in ("source", "target")}
    batch = {
        "source_image": torch.rand(2, 1, *SHAPE),
        "source_label": torch.randint(0, 3, (2, 1, *SHAPE)),
        "target_image": torch.rand(2, 1, *SHAPE),
    }
    names = ("adversarial", "cycle", "identity", "translated_segmentation", "cycle_segmentation")
    weights = dict.fromkeys([*names, "agreement", "cycle_agreement"], 1.0)
    terms, *_ = AdaptationStep(networks, weights, 1e-3).terms(*batch.values())
    parameters = [p for name in networks if "discriminator" not in name for p in networks[name].parameters()]
    trainer = AdaptationTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[batch],
        networks=networks,
        optimizer=torch.optim.SGD(parameters, lr=0.0),
        discriminator_optimizer=torch.optim.SGD(networks["source_discriminator"].parameters(), lr=0.0),
        adversarial_loss=PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True),
        segmentation_loss=DiceLoss(to_onehot_y=True, softmax=True),
        self_training_loss=DiceLoss(to_onehot_y=True, softmax=True),
        agreement_loss=DiceLoss(),
        weights=weights,
        pools={"source": ImagePool(0), "target": ImagePool(0)},
    )
    trainer.run()
    for name, value in terms.items():
        torch.testing.assert_close(
            trainer.state.output[name], value.detach(), msg=lambda text, n=name: f"{n}: {text}"
        )
    critic = torch.zeros(())
    with torch.no_grad():
        for modality, other in (("source", "target"), ("target", "source")):
            judge = networks[f"{modality}_discriminator"]
            fake = networks[f"{other}_to_{modality}"](batch[f"{other}_image"])
            real_score, fake_score = (judge(each)[-1] for each in (batch[f"{modality}_image"], fake))
            critic += 0.5 * ((real_score - 1).square().mean() + fake_score.square().mean())
    torch.testing.assert_close(trainer.state.output["discriminator"], critic)
