"""The losses on semantic features: as released in compatibility mode, and as they should be."""

import pytest
import torch

from semillie_core.losses.semantic import (
    SemanticContrastiveLoss,
    SemanticPerceptualLoss,
    encode_references,
    semantic_contrastive_loss,
    semantic_perceptual_loss,
)
from semillie_core.ram import RAM, RAMEncoder, SemanticFeatures, load_efficientnet_lite0


@pytest.fixture(scope="module")
def official(parity, config_of):
    facts, tensors = parity("semi_llie_ram_losses_c")
    model = RAM(config_of(facts["config"]))
    weights = {k.removeprefix("weight."): v for k, v in tensors.items() if k.startswith("weight.")}
    model.load_state_dict({key: weights[key] for key in model.state_dict()})
    encoder = RAMEncoder(model, official_compat=True)
    images = [tensors[f"in.{name}"] for name in ("anchor", "positive", "negative")]
    features = encode_references(encoder, *images, logits=True)
    return facts, tensors, encoder, images, features


def test_features_match_the_released_code(official) -> None:
    _, tensors, _, _, features = official
    for name, seen in zip(("anchor", "positive", "negative"), features, strict=True):
        expected = {key.removeprefix(f"out.{name}."): value for key, value in tensors.items()}
        torch.testing.assert_close(seen.embedding, expected["image_embeds_cls"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            seen.tokens.abs().mean(-1), expected["image_embeds_mean_abs"], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(seen.logits, expected["logits"], rtol=0, atol=5e-5)
        for i, tap in enumerate(seen.maps):
            token_mean = tap.flatten(2).mean(1)
            torch.testing.assert_close(token_mean, expected[f"tap{i}_token_mean"], rtol=1e-4, atol=1e-4)


def test_losses_match_the_released_code(official) -> None:
    facts, _, _, _, (anchor, positive, negative) = official
    ratio = semantic_contrastive_loss(anchor, positive, negative, form="ratio")
    assert ratio.item() == pytest.approx(facts["contrast_loss"], rel=1e-5)
    ablation = semantic_contrastive_loss(anchor, positive, negative, form="attract")
    assert ablation.item() == pytest.approx(facts["contrast_ablation_loss"], rel=1e-5)
    perceptual = semantic_perceptual_loss(anchor, positive)
    assert perceptual.item() == pytest.approx(facts["perceptual_loss_anchor_vs_positive"], rel=1e-5)


def test_the_gradient_the_released_code_loses_reaches_the_student(official) -> None:
    _, _, encoder, (anchor, positive, negative), _ = official
    student = anchor[:1].clone().requires_grad_()
    references = encode_references(encoder, positive[:1], negative[:1], logits=True)
    seen = encoder.encode(student, logits=True)
    loss = semantic_contrastive_loss(seen, *references) + semantic_perceptual_loss(seen, references[0])
    loss.backward()
    assert student.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert not any(tensor.requires_grad for tensor in references[0].maps)


@pytest.fixture(scope="module")
def lite():
    return load_efficientnet_lite0().encoder


def test_descending_the_losses_brightens_a_dark_image(lite) -> None:
    data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(data.coffee()).movedim(-1, 0)[None, :, ::4, ::4].float() / 255
    dark = photo * 0.1
    positive, negative = encode_references(lite, photo, dark, logits=True)
    gain = torch.tensor(0.15, requires_grad=True)
    seen = lite.encode(photo * gain, logits=True)
    contrast = semantic_contrastive_loss(seen, positive, negative)
    (slope,) = torch.autograd.grad(contrast, gain, retain_graph=True)
    assert slope < 0
    (slope,) = torch.autograd.grad(semantic_perceptual_loss(seen, positive, relative=True), gain)
    assert slope < 0


def test_bounded_form_stays_between_zero_and_its_number_of_terms(lite) -> None:
    images = torch.rand(3, 1, 3, 64, 64)
    a, p, n = encode_references(lite, *images, logits=True)
    assert semantic_contrastive_loss(p, p, n).item() == pytest.approx(0, abs=1e-6)
    assert semantic_contrastive_loss(n, p, n).item() == pytest.approx(2, abs=1e-5)
    assert 0 < semantic_contrastive_loss(a, p, n).item() < 2
    assert semantic_contrastive_loss(n, p, n, form="ratio").item() > 1e4


def test_contrast_is_that_of_the_formula() -> None:
    a, p, n = (SemanticFeatures(tokens=torch.full((1, 2, 2), value)) for value in (1.0, 2.0, 5.0))
    assert semantic_contrastive_loss(a, p, n, form="ratio").item() == pytest.approx(1 / 4)
    assert semantic_contrastive_loss(a, p, n).item() == pytest.approx(1 / 5)


def column(*values: float) -> torch.Tensor:
    """One value per sample."""
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_every_sample_is_compared_with_its_own_negative_unless_released() -> None:
    a, p, n = (SemanticFeatures(tokens=column(*values)) for values in ((0, 0), (1, 3), (1, 9)))
    assert semantic_contrastive_loss(a, p, n).item() == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert semantic_contrastive_loss(a, p, n, form="ratio").item() == pytest.approx(2 / 5)
    assert semantic_contrastive_loss(a, p, n, form="attract").item() == pytest.approx(2)


def test_kinds_of_features_are_averaged_and_class_scores_added() -> None:
    def features(first: float, second: float, embedding: float, logits: float) -> SemanticFeatures:
        return SemanticFeatures(
            maps=(column(first), column(second)),
            embedding=torch.tensor([[embedding]]),
            logits=torch.tensor([[logits]]),
        )

    a, p, n = features(0, 0, 0, 0), features(1, 2, 3, 4), features(1, 6, 1, 1)
    assert semantic_contrastive_loss(a, p, n).item() == pytest.approx((1 / 2 + 1 / 4 + 3 / 4) / 3 + 4 / 5)
    p = SemanticFeatures(maps=p.maps, embedding=p.embedding)
    assert semantic_contrastive_loss(a, p, n).item() == pytest.approx((1 / 2 + 1 / 4 + 3 / 4) / 3)


def test_perceptual_distances_count_alike_only_where_relative() -> None:
    output = SemanticFeatures(maps=(column(2, 2), column(10, 0)))
    target = SemanticFeatures(maps=(column(1, 2), column(20, 20)))
    relative = semantic_perceptual_loss(output, target, relative=True)
    assert relative.item() == pytest.approx(((1 + 0) / 2 + (1 / 4 + 1) / 2) / 2)
    assert semantic_perceptual_loss(output, target).item() == pytest.approx((1 / 2 + 500 / 2) / 2)
    black = SemanticFeatures(maps=(column(0, 0), column(0, 0)))
    assert semantic_perceptual_loss(output, black, relative=True).isfinite()
    with pytest.raises(ValueError, match="got 2 and 1"):
        semantic_perceptual_loss(output, SemanticFeatures(maps=black.maps[:1]))


def test_modules_send_gradient_to_the_output_alone(lite) -> None:
    images = [torch.rand(1, 3, 64, 64, requires_grad=True) for _ in range(3)]
    SemanticContrastiveLoss(lite)(*images).backward()
    SemanticPerceptualLoss(lite)(*images[:2]).backward()
    assert images[0].grad.abs().sum() > 0
    assert images[1].grad is None and images[2].grad is None


def test_modules_know_which_image_is_which_and_take_what_networks_may_return(lite) -> None:
    output, dark = torch.rand(1, 3, 64, 64) * 1.4 - 0.2, torch.rand(1, 3, 64, 64) * 0.1
    contrast, perceptual = SemanticContrastiveLoss(lite), SemanticPerceptualLoss(lite)
    assert contrast(output, output, dark).item() == pytest.approx(0, abs=1e-6)
    # What lies outside the range is not lost on them, unless it is out of reason.
    assert contrast(output, output.clamp(0, 1), dark) > 1e-3
    assert perceptual(output, output.clamp(0, 1)) > 1e-3
    assert contrast(50 * output, 50 * output, dark).isfinite()
    assert perceptual(50 * output, dark).isfinite()


def test_missing_features_are_named() -> None:
    nothing = SemanticFeatures()
    with pytest.raises(ValueError, match="Nothing to contrast"):
        semantic_contrastive_loss(nothing, nothing, nothing)
    with pytest.raises(ValueError, match="form must be"):
        semantic_contrastive_loss(nothing, nothing, nothing, form="triplet")
    with pytest.raises(ValueError, match="maps=True"):
        semantic_perceptual_loss(nothing, nothing)
