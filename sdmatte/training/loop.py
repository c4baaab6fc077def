"""The training loop: resumable at any step, the same on one CPU and on many GPUs."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdmatte.errors import SDMatteError
from sdmatte.network import Network
from sdmatte.training.checkpoints import NAME, load_checkpoint, save_checkpoint, save_tensors
from sdmatte.training.loader import Batch, batches
from sdmatte.training.log import Log
from sdmatte.training.losses import feature_loss, matting_losses, soft_clip
from sdmatte.training.options import TrainingOptions
from sdmatte.training.samples import Composer

Wrap = Callable[[nn.Module], nn.Module]

WEIGHTS = "weights.safetensors"
"""File name of a run's averaged weights."""


class Learner(nn.Module):
    """The network as training sees it: a batch in, alphas out; feature maps for distillation on request.

    Args:
        network: With its text encoder, which is used once and never learns. All of it is frozen: what learns is the
            trainer's choice, and a teacher learns nothing.
        token_ids: ``(1, T)`` int64: of the caption.
    """

    text: Tensor

    def __init__(self, network: Network, token_ids: Tensor) -> None:
        super().__init__()
        self.network = network
        self._token_ids = token_ids
        self.register_buffer("text", network.embed_text(token_ids), persistent=False)
        network.requires_grad_(False)

    def embed_caption(self) -> None:
        """Embed the caption anew, after other weights have been loaded into the text encoder."""
        self.text = self.network.embed_text(self._token_ids.to(self.text.device))

    def forward(self, batch: Batch, features: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Matte a batch.

        Args:
            batch: On the network's device.
            features: Return feature maps, too.

        Returns:
            Alphas ``(B, 1, H, W)`` float32 in [0, 1], with the gradient of
            :func:`~sdmatte.training.losses.soft_clip`; and the outputs ``(B, C, h, w)`` of the down, mid and up
            blocks, if asked for.
        """
        kept: list[Tensor] = []
        with _kept_features(self.network, kept) if features else contextlib.nullcontext():
            latent = self.network.predict_latent(
                self.network.encode_image(batch.image), batch.prompt, batch.coordinates, batch.opaque, self.text
            )
        return soft_clip(self.network.vae.decode_unclipped(latent).float()), kept


@contextlib.contextmanager
def _kept_features(network: Network, into: list[Tensor]) -> Iterator[None]:
    """Collect the outputs of the down, mid and up blocks (Kim et al., BK-SDM, ECCV 2024: feature distillation)."""

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        into.append(output[0] if isinstance(output, tuple) else output)

    blocks = [*network.unet.down_blocks, network.unet.mid_block, *network.unet.up_blocks]
    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Trainer:
    """One worker's training run; it continues from the folder's checkpoint if there is one.

    Args:
        learner: What learns; the parts that ``options.learn`` names are unfrozen.
        composer: Where samples come from.
        options: Of the run.
        folder: Checkpoints, log and weights go here. Every worker must see the same checkpoint in it.
        device: Where to compute; default the CPU.
        teacher: Distil from it; its weights never change.
        rank: Of this worker; worker 0 writes.
        world: Number of workers.
        wrap: Makes the learner exchange gradients (``ray.train.torch.prepare_model``).

    Attributes:
        step: Optimiser steps done.
        average: Moving averages of the learning parameters, by their names in the network.

    Raises:
        SDMatteError: The options don't fit the model or the number of workers.
        CheckpointError: The folder's checkpoint is damaged, or of another model.
    """

    def __init__(
        self,
        learner: Learner,
        composer: Composer,
        options: TrainingOptions,
        folder: Path,
        *,
        device: torch.device | None = None,
        teacher: Learner | None = None,
        rank: int = 0,
        world: int = 1,
        wrap: Wrap | None = None,
    ) -> None:
        self.options, self.folder, self.rank = options, folder, rank
        self.device = device or torch.device("cpu")
        self.learner = learner.to(self.device)
        self.teacher = teacher.to(self.device).eval() if teacher else None
        _check_sizes(options, learner.network.stride)
        for part in options.learn:
            getattr(learner.network, part).requires_grad_(True)
        learning = {name: value for name, value in learner.network.named_parameters() if value.requires_grad}
        self._learning: list[Tensor] = list(learning.values())
        self.average = {name: value.detach().clone() for name, value in learning.items()}
        self.optimiser = torch.optim.AdamW(
            self._learning, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self.step = 0
        if (folder / NAME).exists():
            self.step = load_checkpoint(folder / NAME, learner.network, self.average, self.optimiser)
            learner.embed_caption()
        self._module = wrap(self.learner) if wrap else self.learner
        unet = learner.network.unet
        self._batches = batches(
            composer, options, (unet.box_channels, unet.points_dim), start=self.step, rank=rank, world=world
        )
        self._log = Log(folder, self.step) if rank == 0 else None

    def run(self, *, until: int | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        """Train, and save checkpoints on the way and before returning.

        Args:
            until: Step to return after; default the end.
            stop: Asked before every step; return early if it says so. All workers must hear the same answer.

        Raises:
            SDMatteError: The gradient is no longer finite. The last checkpoint is sound.
        """
        last = self.options.steps if until is None else min(until, self.options.steps)
        saved = self.step
        while self.step < last and not stop():
            batch = next(self._batches)
            begin = time.perf_counter()
            losses, alpha = self._update(batch.to(self.device))
            self.step += 1
            if self._log:
                losses |= {"rate": self.options.rate(self.step - 1), "seconds": time.perf_counter() - begin}
                self._log.write(self.step, losses | {"size": float(batch.image.shape[-1])})
                if self.step % self.options.show_every == 0:
                    self._log.show(self.step, batch, alpha)
            if self.step % self.options.save_every == 0:
                self.save()
                saved = self.step
        if saved != self.step:
            self.save()

    def save(self) -> None:
        """Write the checkpoint and the averaged weights (``weights.safetensors``), if this is worker 0."""
        if self.rank:
            return
        save_checkpoint(self.folder / NAME, self.step, self.learner.network, self.average, self.optimiser)
        save_tensors(self.folder / WEIGHTS, self.averaged())
        if self._log:
            self._log.flush()

    def averaged(self) -> dict[str, Tensor]:
        """Return the network's state with averaged weights, text encoder included.

        The tensors are those of the run, not copies: further steps change them.
        """
        return self.learner.network.state_dict() | self.average

    def _update(self, batch: Batch) -> tuple[dict[str, float], Tensor]:
        """Take one step; return what to log, and the alphas."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate(self.step)
        parts = self.options.stage(self.step).accumulate
        total: dict[str, Tensor] = {}
        alphas = []
        for index in range(parts):
            piece = batch.part(index, parts) if parts > 1 else batch
            ready = index == parts - 1  # exchange gradients once per step
            unsynced = getattr(self._module, "no_sync", contextlib.nullcontext)
            with contextlib.nullcontext() if ready else unsynced():
                losses, alpha = self._losses(piece)
                torch.autograd.backward(torch.stack(list(losses.values())).sum() / parts)
            alphas.append(alpha.detach())
            losses["mad"] = (alphas[-1] - piece.alpha).abs().mean()
            total = {name: total.get(name, 0) + value.detach() / parts for name, value in losses.items()}
        norm = float(nn.utils.clip_grad_norm_(self._learning, self.options.clip))
        if not math.isfinite(norm):
            raise SDMatteError(
                f"the gradient's norm is {norm} after {self.step} steps; continue from the last checkpoint, which is "
                "sound, with a lower learning rate, or look at the samples"
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._track()
        return {name: float(value) for name, value in total.items()} | {"gradient": norm}, torch.cat(alphas)

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        lower = self.options.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=lower):
            alpha, features = self._module(batch, self.teacher is not None)
            if self.teacher is not None:
                with torch.no_grad():
                    _, wanted = self.teacher(batch, True)
        losses = matting_losses(alpha, batch.alpha, batch.unknown)
        if self.teacher is not None:
            losses["distillation"] = self.options.distillation * feature_loss(features, wanted)
        return losses, alpha

    @torch.no_grad()
    def _track(self) -> None:
        # Young averages follow closely, or they would remember the random initial weights.
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), self._learning, 1 - decay)


def _check_sizes(options: TrainingOptions, stride: int) -> None:
    for size in {size for stage in options.stages for size in stage.sizes}:
        if size % stride:
            raise SDMatteError(f"training at {size} px: this model's input must be a multiple of {stride} px")
