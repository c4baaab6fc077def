"""The training loop: resumable at any step, the same on one CPU and on many GPUs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdmatte.configs import ModelConfigs
from sdmatte.embeddings import CoordinateFeatures
from sdmatte.network import Network
from sdmatte.training.checkpoints import NAME, load_checkpoint, save_checkpoint
from sdmatte.training.loader import Batch, batches
from sdmatte.training.log import Log
from sdmatte.training.losses import feature_loss, matting_losses, soft_clip
from sdmatte.training.options import TrainingOptions
from sdmatte.training.samples import Composer

Wrap = Callable[[nn.Module], nn.Module]


class Learner(nn.Module):
    """The network as training sees it: a batch in, unclipped alphas out; feature maps for distillation on request.

    Args:
        network: With its text encoder, which is used once and never learns.
        token_ids: ``(1, T)`` int64: of the caption.
    """

    text: Tensor

    def __init__(self, network: Network, token_ids: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("text", network.embed_text(token_ids), persistent=False)
        network.requires_grad_(False)

    def forward(self, batch: Batch, features: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Return alphas ``(B, 1, H, W)`` in [0, 1] with a soft clip's gradient, and the feature maps asked for."""
        kept: list[Tensor] = []
        with _kept_features(self.network, kept) if features else contextlib.nullcontext():
            latent = self.network.predict_latent(
                self.network.encode_image(batch.image), batch.prompt, batch.coordinates, batch.opaque, self.text
            )
        return soft_clip(self.network.vae.decode_unclipped(latent).float()), kept


@contextlib.contextmanager
def _kept_features(network: Network, into: list[Tensor]) -> Any:
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
    """One worker's training run.

    Args:
        learner: What learns.
        composer: Where samples come from.
        options: Of the run.
        folder: Checkpoints, log and weights go here.
        device: Where to compute.
        teacher: Distil from it; its weights never change.
        rank: Of this worker; worker 0 writes.
        world: Number of workers.
        wrap: Makes the learner exchange gradients (``ray.train.torch.prepare_model``).
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
        for part in options.learn:
            getattr(learner.network, part).requires_grad_(True)
        self._learning = [p for p in learner.parameters() if p.requires_grad]
        self._names = [n for n, p in learner.network.named_parameters() if p.requires_grad]
        self.average = {n: p.detach().clone() for n, p in learner.network.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self._learning, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self.step = 0
        if (folder / NAME).exists():
            self.step = load_checkpoint(folder / NAME, learner.network, self.average, self.optimiser)
        self._module = wrap(self.learner) if wrap else self.learner
        unet = learner.network.unet
        self._batches = batches(
            composer, options, (unet.box_channels, unet.points_dim), start=self.step, rank=rank, world=world
        )
        self._log = Log(folder, self.step) if rank == 0 else None

    def run(self, *, until: int | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to step ``until``, or to the end; checkpoint on the way, at the end, and when ``stop`` says so."""
        last = min(until or self.options.steps, self.options.steps)
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
        save_file(self.averaged(), self.folder / "weights.safetensors")

    def averaged(self) -> dict[str, Tensor]:
        """Return the network's state with averaged weights, text encoder included."""
        state = {name: value.detach().cpu().contiguous() for name, value in self.learner.network.state_dict().items()}
        return state | {name: value.cpu().contiguous() for name, value in self.average.items()}

    def _update(self, batch: Batch) -> tuple[dict[str, float], Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate(self.step)
        parts = self.options.stage(self.step).accumulate
        total: dict[str, float] = {}
        alphas = []
        for index in range(parts):
            piece = batch.part(index, parts) if parts > 1 else batch
            ready = index == parts - 1  # exchange gradients once per step
            unsynced = getattr(self._module, "no_sync", contextlib.nullcontext)
            with contextlib.nullcontext() if ready else unsynced():
                losses, alpha = self._losses(piece)
                torch.stack(list(losses.values())).sum().div(parts).backward()
            alphas.append(alpha.detach())
            for name, value in losses.items():
                total[name] = total.get(name, 0.0) + float(value.detach()) / parts
            error = (alpha.detach() - piece.alpha).abs().mean()
            total["mad"] = total.get("mad", 0.0) + float(error) / parts
        norm = nn.utils.clip_grad_norm_(self._learning, self.options.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._track()
        return total | {"gradient": float(norm)}, torch.cat(alphas)

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
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self._learning], 1 - decay)


def seeded_network(configs: ModelConfigs, seed: int) -> Network:
    """Build a network with PyTorch's usual random weights, from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(configs)


__all__ = ["CoordinateFeatures", "Learner", "Trainer", "seeded_network"]
