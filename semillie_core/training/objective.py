"""The loss of one step of Semi-LLIE (arXiv 2409.16604, §3).

L     = L_sup + w(t) L_uns
L_sup = L_structure + l_g L_gradient + l_p L_perceptual (+ SSIM, colour and illumination terms of ours)
L_uns = |student(strong) - teacher(weak)| + l_c L_contrastive(student(strong), teacher(weak), strong)
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Batch, StepData, UnpairedBatch
from ..inference.noise import reduce_noise
from ..losses import colour_loss, detail_loss, gradient_loss, ssim_loss, structure_loss
from ..losses.semantic import SemanticContrastiveLoss, SemanticPerceptualLoss
from ..precision import at_least_float32, full_precision
from ..ram import SemanticEncoder
from .config import TrainConfig
from .errors import TrainingError
from .schedules import consistency_weight
from .students import Enhanced, View, enhance_view

ILLUMINATION_POOL = 16


class Objective(nn.Module):
    """Weighted loss terms of a step, by name; their sum is the loss.

    Args:
        student: What learns; the only registered module.
        teacher: What the student follows on unpaired photos; never gets a gradient.
        encoder: Frozen encoder of the semantic losses; ``None`` where no phase uses them.
        config: Weights and forms.

    Raises:
        TrainingError: A loss needs an encoder, and there is none.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, encoder: SemanticEncoder | None, config: TrainConfig
    ) -> None:
        super().__init__()
        self.student = student
        # In a tuple, so that it is not registered: it does not learn, and a distributed run must not touch it.
        self._teacher = (teacher,)
        self.config = config
        if encoder is None and config.needs_encoder:
            raise TrainingError(
                "Semantic losses need an encoder: give one, or set loss.perceptual and consistency.contrastive to 0."
            )
        if encoder is not None:
            self.perceptual = SemanticPerceptualLoss(encoder, relative=not config.official_compat)
            self.contrastive = SemanticContrastiveLoss(
                encoder,
                cast(Literal["bounded", "ratio", "attract"], config.consistency.contrastive_form),
                config.consistency.logits,
            )

    def forward(self, data: StepData, step: int) -> dict[str, Tensor]:
        """The terms of a step.

        Args:
            data: Its batches.
            step: Its number, from 0.

        Returns:
            Scalars with gradient to the student alone; those of the semantic losses may have none.
        """
        terms = self._paired_terms(data.paired, step)
        if data.unpaired is not None:
            weight = consistency_weight(self.config, step)
            terms |= {name: weight * term for name, term in self._unpaired_terms(data.unpaired).items()}
        return terms

    def _paired_terms(self, batch: Batch, step: int) -> dict[str, Tensor]:
        weights = self.config.loss
        output = self._enhance(View(batch.low, batch.thumbnail, batch.region))
        # Sums of squares over windows cancel in bf16.
        with full_precision(batch.low.device):
            terms = self._pixel_terms(output.image, batch.high)
            if weights.noise_reduced:
                share = weights.noise_reduced
                reduced = self._pixel_terms(reduce_noise(batch.low, output.image), batch.high)
                terms = {name: (1 - share) * term + share * reduced[name] for name, term in terms.items()}
            if weights.illumination and output.illumination is not None:
                coarse = _coarse_structure(output.illumination, batch.high)
                terms["illumination"] = weights.illumination * coarse
        if weights.perceptual and step >= weights.perceptual_from:
            terms["perceptual"] = weights.perceptual * self.perceptual(
                self._to_encoder(output.image), batch.high
            )
        return terms

    def _pixel_terms(self, image: Tensor, high: Tensor) -> dict[str, Tensor]:
        weights = self.config.loss
        terms = {"structure": structure_loss(image, high)}
        if weights.ssim:
            terms["ssim"] = weights.ssim * ssim_loss(image, high)
        if weights.gradient:
            # The released trainer adds the gradient of its network's second output, which is the same number.
            count = 2 if self.config.official_compat else 1
            terms["gradient"] = count * weights.gradient * gradient_loss(image, high)
        if weights.detail:
            terms["detail"] = weights.detail * detail_loss(image, high)
        if weights.colour:
            terms["colour"] = weights.colour * colour_loss(image, high)
        return terms

    def _unpaired_terms(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        weights = self.config.consistency
        target = self._pseudo_label(batch)
        output = self._enhance(View(batch.strong, batch.strong_thumbnail, batch.region))
        terms = {"consistency": F.l1_loss(output.image, target)}
        if weights.weight and weights.contrastive:  # as TrainConfig.needs_encoder has it
            contrast = self.contrastive(self._to_encoder(output.image), target, batch.strong)
            terms["contrastive"] = weights.contrastive * contrast
        return terms

    def _enhance(self, view: View) -> Enhanced:
        """The student's output, in full precision."""
        output = enhance_view(self.student, view)
        output = output._replace(image=at_least_float32(output.image))
        if not torch.isfinite(output.image).all():
            raise TrainingError(
                "The student's output is not finite. Train on in a new run_dir with a lower optimizer.learning_rate "
                "and with init set to this run's best.safetensors (last.safetensors, where the run does not validate)."
            )
        return output

    def _to_encoder(self, image: Tensor) -> Tensor:
        return image if self.config.semantic_gradient else image.detach()

    @torch.no_grad()
    def _pseudo_label(self, batch: UnpairedBatch) -> Tensor:
        """The teacher's output on the weak view, or the bank's where it has one."""
        (teacher,) = self._teacher
        output = enhance_view(teacher, View(batch.weak, batch.weak_thumbnail, batch.region))
        own = reduce_noise(
            batch.weak, at_least_float32(output.image), self.config.consistency.noise_reduction
        )
        return torch.where(batch.has_pseudo[:, None, None, None], batch.pseudo.to(own.dtype), own)


def _coarse_structure(output: Tensor, target: Tensor) -> Tensor:
    pooled = [F.avg_pool2d(image, ILLUMINATION_POOL, ceil_mode=True) for image in (output, target)]
    return structure_loss(pooled[0], pooled[1])
