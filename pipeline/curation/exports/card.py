"""The card (README.md) of an exported Hugging Face data set."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import yaml

from pipeline.curation.selected import Selection

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LONGEST = 20_000  # characters of curation.json

_TEXT = """
# Mattes

{count:,} objects, one per row: `image` is the photo, `alpha` the matte of one object in it, a grayscale PNG of the
photo's size. A photo of several objects stands in several rows.

```python
from datasets import load_dataset

row = load_dataset("parquet", data_files="data/*.parquet", split="train")[0]
row["image"], row["alpha"]  # PIL images of one size
```

## How it was made

A model (column `model`) made every alpha from a photo and a coarse prompt (`prompt_kind`, `prompt_box`,
`prompt_points`). `predicted_mad` is a calibrated prediction of its mean absolute error, 0 to 1; `quality` is derived
from it. Where `calibration_matches` is not true, they rank at best. The objects are those whose decision is
`{decision}`. {reviewed:,} of the alphas are corrections by reviewers (`reviewed`); all others are as the model made
them, and were not necessarily seen by anybody.

Photos are upright and 8-bit RGB. Where the original was something else, `image_notes` says what was done:
`exif_rotated`, `first_frame`, `converted_cmyk`, `reduced_16bit`, `flattened_alpha`; `reencoded_jpeg` (quality 95) or
`reencoded_png`. All others are the original files with all their metadata, which may tell place and camera.

## Columns

| column | meaning |
|---|---|
{columns}

## Licence

Unknown: it is that of the photos, which the program that wrote this can't know. State it here, and as `license` above,
before you pass the data on.
{figures}"""


def dataset_card(
    selection: Selection,
    schema: pa.Schema,
    *,
    count: int,
    reviewed: int,
    picture_bytes: int,
    file_bytes: int,
) -> str:
    """Write the card: YAML front matter as Hugging Face reads it, then text.

    Args:
        selection: What was exported.
        schema: Of the Parquet files, with the features in its metadata.
        count: Rows.
        reviewed: Of them with a corrected alpha.
        picture_bytes: Of both picture columns.
        file_bytes: Of all Parquet files.
    """
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    front = {
        "license": "unknown",
        "task_categories": ["image-segmentation"],
        "tags": ["image-matting", "alpha-matte"],
        "size_categories": [next((name for most, name in _SIZES if count < most), "n>1M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
        "dataset_info": {
            "features": [{"name": name, **_feature(feature)} for name, feature in features.items()],
            "splits": [{"name": "train", "num_bytes": picture_bytes, "num_examples": count}],
            "download_size": file_bytes,
            "dataset_size": picture_bytes,
        },
    }
    columns = "\n".join(f"| `{field.name}` | {field.metadata[b'description'].decode()} |" for field in schema)
    text = _TEXT.format(
        count=count,
        decision=selection.decision,
        reviewed=reviewed,
        columns=columns,
        figures=_figures(selection.curation),
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{text}"


def _feature(feature: dict[str, Any]) -> dict[str, Any]:
    """Return a feature as the front matter has it, which differs from the form in Parquet's metadata."""
    match feature:
        case {"_type": "Image"}:
            return {"dtype": "image"}
        case {"_type": "List", "feature": {"_type": "Value", "dtype": dtype}}:
            return {"list": dtype}
        case {"_type": "List", "feature": inner}:
            return {"list": _feature(inner)}
    return {"dtype": feature["dtype"]}


def _figures(curation: dict[str, Any] | None) -> str:
    if curation is None:
        return ""
    # Labels and messages in it are the input's: nothing in them may end the block, or be markup.
    text = json.dumps(curation, indent=2)[:_LONGEST].replace("`", "\\u0060")
    return f"\n## Curation\n\nSettings and counts, from `curation.json`:\n\n```json\n{text}\n```\n"
