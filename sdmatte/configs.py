"""Model configurations: the diffusers-style folders ``unet/``, ``vae/`` and ``text_encoder/``.

The configurations in :data:`PACKAGED` ship inside the package, because checkpoints are often passed on without them
and the base model's own hub repository is gone:

``sdmatte``
    The released SDMatte and SDMatte* (``SDMatte_plus``), 1.3 G parameters.
``litesdmatte``
    LiteSDMatte, *inferred* from the models that it was trained from (BK-SDM v2 base and TAESD). Prefer the
    configuration folders that come with its checkpoint: :meth:`ModelConfigs.from_folder`.
``sdmatte-nano``
    The bundled model: small, trained from scratch by this project, with its weights (:data:`BUNDLED`).
``sdmatte-mini``
    A small configuration of SDMatte's architecture for tests. No weights exist for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sdmatte.errors import CheckpointError

PACKAGED = ("sdmatte", "litesdmatte", "sdmatte-nano", "sdmatte-mini")
"""Names of the configurations that ship with the package."""

BUNDLED = "sdmatte-nano"
"""The packaged configuration that ships with weights: the default of the command, ``from_pretrained`` and the demo."""

BUNDLED_WEIGHTS = f"{BUNDLED}.safetensors"
"""Their file, in the configuration's folder."""

PARTS = ("unet", "vae", "text_encoder")
"""Sub-folders of a model folder that hold a ``config.json``."""

_PACKAGED_ROOT = Path(__file__).parent / "configs"


@dataclass(frozen=True, slots=True)
class ModelConfigs:
    """The three parsed ``config.json`` files of one model; plain JSON values.

    Attributes:
        name: What to call it in messages: a packaged name, or the folder's.
        unet: ``unet/config.json``: ``UNet2DConditionModel`` plus SDMatte's ``bbox_time_embed_dim`` and others.
        vae: ``vae/config.json``: ``AutoencoderKL``, or ``AutoencoderTiny`` for LiteSDMatte.
        text_encoder: ``text_encoder/config.json``: ``CLIPTextModel``.
    """

    name: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read the configurations of a model folder.

        Args:
            folder: Folder with ``unet/config.json``, ``vae/config.json`` and ``text_encoder/config.json``.

        Raises:
            CheckpointError: One of the three is missing, or not a JSON object.
        """
        root = Path(folder)
        unet, vae, text_encoder = (_read_config(root, part) for part in PARTS)
        return cls(root.name, unet, vae, text_encoder)

    @property
    def input_size(self) -> int:
        """Side of the square input that the model works at unless told otherwise, pixels: 1024 as in the paper."""
        return int(self.unet.get("input_size", 1024))

    @classmethod
    def released(cls, name: str) -> Self:
        """Return a configuration that ships with the package.

        Args:
            name: One of :data:`PACKAGED`.

        Raises:
            CheckpointError: There is none of that name.
        """
        if name not in PACKAGED:
            raise CheckpointError(f"no packaged configuration is called {name!r}; there are: {', '.join(PACKAGED)}")
        return cls.from_folder(packaged_folder(name))

    def same_model(self, other: ModelConfigs) -> bool:
        """Say whether the two describe one model, whatever their names."""
        return (self.unet, self.vae, self.text_encoder) == (other.unet, other.vae, other.text_encoder)


def packaged_folder(name: str) -> Path:
    """Return the folder of a packaged configuration."""
    return _PACKAGED_ROOT / name


def _read_config(root: Path, part: str) -> dict[str, Any]:
    path = root / part / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{path} is missing; a model folder needs a config.json in each of {', '.join(f'{p}/' for p in PARTS)}. "
            "Download the folder again with its sub-folders, or remove all three to use the packaged configuration"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}; check its permissions") from error
    except ValueError as error:  # not JSON, or not text at all
        raise CheckpointError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a JSON {type(config).__name__}, expected an object; download it again")
    return config
