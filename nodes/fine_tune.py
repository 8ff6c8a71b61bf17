"""Fine-Tune Semi-LLIE."""

from __future__ import annotations

import comfy.model_management as mm
from comfy_api.latest import io, ui
from torch import Tensor

from . import _folders, _runtime
from ._types import LoadedModel, LoadedRAM, LossMapType, RAMModelType, SemiLLIEModelType

RUNS = "semillie-training"


class FineTune(io.ComfyNode):
    """Goes on training a network on the user's own photos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SemiLLIE_FineTune",
            display_name="Fine-Tune Semi-LLIE",
            category="model/training",
            description="Adapts the network to your own dark photos: a camera, a place, a look. Photos without "
            "references are enough; with pairs you show what you want. Cancelled, it goes on from there "
            "when you run it again.",
            search_aliases=[
                *("train", "training", "finetune", "semi-supervised", "contrastive", "mean teacher"),
                *("own photos", "low light training", "微调", "训练", "学習", "ファインチューニング"),
            ],
            is_input_list=True,
            inputs=[
                SemiLLIEModelType.Input("model", tooltip="Where to start. It stays as it is."),
                io.Image.Input(
                    "dark_images",
                    tooltip="Dark photos of the kind you want to enhance, of any sizes; a few are enough, a few "
                    "dozen are better. Load Image (from Folder) gives a whole folder.",
                ),
                io.Int.Input(
                    "steps",
                    default=200,
                    min=10,
                    max=100_000,
                    tooltip="How long to train. Two hundred steps take minutes on a processor and "
                    "seconds on a GPU. More adapt further, and forget more of everything else. Default: 200.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=2e-4,
                    min=1e-6,
                    max=1e-2,
                    step=1e-6,
                    round=1e-6,
                    tooltip="How far each step goes. Halve it when results get worse, double it when nothing "
                    "changes. Default: 0.0002.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=2,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Cut-outs of pairs, and as many of dark photos, per step. Memory and time grow with "
                    "it. Default: 2.",
                ),
                io.Int.Input(
                    "crop_size",
                    default=128,
                    min=64,
                    max=1024,
                    step=16,
                    advanced=True,
                    tooltip="Edge of the cut-outs in pixels. Memory and time grow with its square. Default: 128.",
                ),
                io.Float.Input(
                    "consistency",
                    default=0.3,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Weight of what the dark photos teach: the same result for a photo in another light "
                    "and with more noise. 0 learns from the pairs alone. Default: 0.3.",
                ),
                io.Float.Input(
                    "contrastive",
                    default=0.05,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Weight of the semantic contrastive loss within consistency: results are to show what "
                    "the steady network shows, and not what the dark photo shows. Much of it costs fine "
                    "structure; 0 is faster. Default: 0.05.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    advanced=True,
                    control_after_generate=False,
                    tooltip="Chooses the cut-outs and their changes. The same seed gives the same network on a "
                    "processor. Default: 0.",
                ),
                io.Image.Input(
                    "pairs_before",
                    optional=True,
                    tooltip="Dark photos whose wanted result you have, in the order of pairs_after.",
                ),
                io.Image.Input(
                    "pairs_after",
                    optional=True,
                    tooltip="What they should become: a long exposure, or your own edit, of the same size and "
                    "showing the same pixels. Without pairs the network keeps the look it has.",
                ),
                RAMModelType.Input(
                    "ram_model",
                    optional=True,
                    tooltip="What the contrastive loss looks through. Without it: the small network that ships "
                    "with the pack (EfficientNet-Lite0). RAM is better and much slower.",
                ),
            ],
            outputs=[
                SemiLLIEModelType.Output(
                    "model", tooltip="The fine-tuned network, for Enhance and for Save Semi-LLIE Model."
                ),
                LossMapType.Output(
                    display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."
                ),
                io.String.Output(
                    display_name="run_folder",
                    tooltip="Where log, report and checkpoint are, in the output folder. It may be deleted once the "
                    "model is saved.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_experimental=True,
        )

    @classmethod
    def execute(
        cls,
        model: list[LoadedModel],
        dark_images: list[Tensor],
        steps: list[int],
        learning_rate: list[float],
        batch_size: list[int],
        crop_size: list[int],
        consistency: list[float],
        contrastive: list[float],
        seed: list[int],
        pairs_before: list[Tensor] | None = None,
        pairs_after: list[Tensor] | None = None,
        ram_model: list[LoadedRAM] | None = None,
    ) -> io.NodeOutput:
        """Train, or go on with a run that was cancelled."""
        # Here, because nothing else in a graph needs the trainer.
        from ..semillie_core.training import FineTuneOptions, fine_tune

        before, after = _photos("pairs_before", pairs_before), _photos("pairs_after", pairs_after)
        if len(before) != len(after):
            raise ValueError(
                f"pairs_before has {len(before)} images and pairs_after {len(after)}: connect as many to each, in the "
                "same order."
            )
        mm.unload_all_models()
        try:
            mm.in_training = True
            result = fine_tune(
                model[0].model,
                _photos("dark_images", dark_images),
                _folders.output_folder() / RUNS,
                pairs=list(zip(before, after, strict=True)),
                options=FineTuneOptions(
                    steps=steps[0],
                    learning_rate=learning_rate[0],
                    batch_size=batch_size[0],
                    crop=crop_size[0],
                    consistency=consistency[0],
                    contrastive=contrastive[0],
                    seed=seed[0],
                ),
                encoder=(ram_model[0].file if ram_model else None) or "",
                device=mm.get_torch_device(),
                progress=_runtime.Progress(),
                check=mm.throw_exception_if_processing_interrupted,
            )
        finally:
            mm.in_training = False
        tenth = max(1, steps[0] // 10)
        first, last = (sum(part) / tenth for part in (result.losses[:tenth], result.losses[-tenth:]))
        text = f"{steps[0]} steps: loss {first:.4f} in the first tenth, {last:.4f} in the last"
        if last > first:
            text += "\nThe loss rose: lower learning_rate, and look at the preview before saving."
        _runtime.show_text(cls.hidden.unique_id, text)
        return io.NodeOutput(
            LoadedModel(result.model, _runtime.managed(result.model.network)),
            {"loss": result.losses},
            str(result.run),
            ui=ui.PreviewText(text),
        )


def _photos(name: str, batches: list[Tensor] | None) -> list[Tensor]:
    """All images of an input's batches, each ``(3, H, W)``."""
    photos: list[Tensor] = []
    for batch in batches or []:
        _runtime.check_images(name, batch)
        photos += _runtime.colour(batch)
    return photos
