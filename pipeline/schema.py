"""Arrow schemas: the rows that travel between stages, and the records that a run leaves behind.

An *engine row* is one image with its audited prompts; its bytes stay encoded. A *record* is one object (image and
prompt).
Every prompt struct of an engine row becomes exactly one record.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

PROMPT = pa.struct(
    [
        ("record_id", pa.int64()),  # pipeline.ids.record_id
        ("kind", pa.string()),  # box | points | mask; null where nothing could be parsed
        ("id", pa.string()),  # the prompt's own id in its source, if any
        ("label", pa.string()),  # category name, if any
        ("score", pa.float64()),  # detector's confidence in [0, 1], if any
        ("transparent", pa.bool_()),
        ("box", pa.list_(pa.float64())),  # x0, y0, x1, y1: pixels of the upright image
        ("points", pa.list_(pa.list_(pa.float64()))),  # x, y pairs: pixels of the upright image
        ("mask", pa.binary()),  # 1-bit PNG of the upright image's size
        ("repairs", pa.list_(pa.string())),  # what the audit changed, e.g. box_clipped
        ("error_code", pa.string()),  # pipeline.errors.ErrorCode, or null
        ("error_message", pa.string()),
    ]
)

LEDGER = pa.struct(
    [
        ("images", pa.int64()),  # images in the shard
        ("records", pa.int64()),  # records that the shard must leave behind
        ("id_sum", pa.int64()),  # sum of their record ids, modulo 2**64
        ("matched", pa.list_(pa.int64())),  # pipeline.ids.key_hash of prompt-file keys that found their image here
        ("source", pa.string()),  # fingerprint of the shard and its prompts, as far as listings tell
    ]
)

IMAGE_ROWS = pa.schema(
    [
        ("shard", pa.string()),  # name of the shard, stable across runs
        ("image_key", pa.string()),  # the source's own key
        ("image_uri", pa.string()),  # where the bytes are; tar members as URI#member
        ("image_etag", pa.string()),  # of the object at the URI, where the store tells
        ("image_id", pa.int64()),
        ("image", pa.binary()),  # encoded bytes; null where they could not be read
        ("image_width", pa.int32()),  # pixels, upright; null where the header could not be read
        ("image_height", pa.int32()),
        ("prompts", pa.list_(PROMPT)),  # never empty, except in ledger rows
        ("ledger", LEDGER),  # set in the one row that ends a shard, where all other columns but `shard` are null
    ]
)
"""One row per image, and one last row per shard with its ledger."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _column(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)


_COLUMNS = [
    _column("record_id", pa.int64(), "Id of the object, derived from image and prompt; equal in every run"),
    _column("image_id", pa.int64(), "Id of the image, derived from the source's own key; equal in every run"),
    _column("run_id", pa.string(), "The run that wrote this record"),
    _column("shard", pa.string(), "Shard of the input"),
    _column("image_key", pa.string(), "The source's own key of the image"),
    _column("image_uri", pa.string(), "Where the image's bytes are; tar members as URI#member"),
    _column("image_etag", pa.string(), "ETag of the object at image_uri, where the store gives one"),
    _column("image_sha256", pa.string(), "SHA-256 of the image's encoded bytes, hexadecimal"),
    _column("image_width", pa.int32(), "Width of the upright image", "pixel"),
    _column("image_height", pa.int32(), "Height of the upright image", "pixel"),
    _column(
        "image_phash",
        pa.int64(),
        "Perceptual hash of the upright image (DCT, 64 bits); near-duplicates differ in few",
    ),
    _column("image_notes", pa.list_(pa.string()), "What decoding did, e.g. exif_rotated, flattened_alpha"),
    _column("prompt_kind", pa.string(), "box, points or mask"),
    _column("prompt_id", pa.string(), "The prompt's own id in its source"),
    _column("label", pa.string(), "Category"),
    _column("prompt_score", pa.float64(), "The detector's confidence, 0 to 1"),
    _column("transparent", pa.bool_(), "The object was prompted as transparent"),
    _column("prompt_box", pa.list_(pa.float64()), "x0, y0, x1, y1 in the upright image", "pixel"),
    _column("prompt_points", pa.list_(pa.list_(pa.float64())), "x, y pairs in the upright image", "pixel"),
    _column("prompt_mask", pa.binary(), "1-bit PNG of the upright image's size"),
    _column("prompt_repairs", pa.list_(pa.string()), "What the prompt audit changed, e.g. box_clipped"),
    _column("status", pa.string(), "ok or error"),
    _column("error_code", pa.string(), "From the closed list in pipeline.errors.ErrorCode"),
    _column("error_message", pa.string(), "What is wrong, where, and what to do"),
    _column("alpha", _IMAGE, "The matte: grayscale PNG of the upright image's size, 0 transparent"),
    _column("coverage", pa.float32(), "Mean alpha over the image, 0 to 1"),
    _column("definiteness", pa.float32(), "IoU of alpha > 0.9 and alpha > 0.1, 0 to 1; 1 is a crisp matte"),
    _column("semi_transparent", pa.float32(), "Share of the image's pixels with alpha between 0.1 and 0.9, 0 to 1"),
    _column("softness", pa.float32(), "Mean of 4 alpha (1 - alpha) over the image, 0 to 1; 0 for a binary matte"),
    _column("fragments", pa.int32(), "Connected parts of alpha > 0.5"),
    _column("fragment_share", pa.float32(), "Share of the core's area outside its largest part, 0 to 1"),
    _column("holes", pa.int32(), "Connected parts of alpha <= 0.5 that the core encloses"),
    _column("hole_share", pa.float32(), "Their area as a share of the core's area with them, 0 to 1"),
    _column("frame_contact", pa.float32(), "Share of the image's border pixels with alpha > 0.5, 0 to 1"),
    _column(
        "prompt_outside", pa.float32(), "Share of the alpha mass outside the box or mask, 0 to 1; null for points"
    ),
    _column(
        "prompt_iou", pa.float32(), "IoU of alpha > 0.5 with the mask (its bounding box with the box); null for points"
    ),
    _column("prompt_point_alpha", pa.float32(), "Mean alpha at the clicked points, 0 to 1; null for boxes and masks"),
    _column("prompt_area", pa.float32(), "Share of the image that the box or mask covers, 0 to 1; null for points"),
    _column("edge_alignment", pa.float32(), "How well alpha's edges lie on the image's, 0 to 1; null without edges"),
    _column(
        "laplacian_energy", pa.float32(), "log10 of the matting Laplacian's energy per pixel of the band; null without"
    ),
    _column("colour_overlap", pa.float32(), "Overlap of the colours of object and surroundings, 0 to 1"),
    _column("second_difference", pa.float32(), "Mean absolute difference of the second pass over the image, 0 to 1"),
    _column(
        "second_agreement", pa.float32(), "Soft minimum, over the band, of the agreement with the second pass, 0 to 1"
    ),
    _column(
        "predicted_mad",
        pa.float32(),
        "Calibrated prediction of the mean absolute error over the image, 0 to 1; null where nothing calibrated it",
    ),
    _column("quality", pa.float32(), "2 ** (-predicted_mad / 0.02): 1 is perfect, and each 0.02 of error halves it"),
    _column("calibration", pa.string(), "Id of the calibration that predicted_mad comes from"),
    _column(
        "calibration_matches",
        pa.bool_(),
        "Whether it was made for this model, input size and second pass; if not, predicted_mad only ranks, at best",
    ),
    _column("model", pa.string(), "Name of the model"),
    _column("weights_sha256", pa.string(), "SHA-256 of the model's weights, hexadecimal"),
    _column("precision", pa.string(), "float32, bfloat16 or float16"),
    _column("input_height", pa.int32(), "Height of the model's input", "pixel"),
    _column("input_width", pa.int32(), "Width of the model's input", "pixel"),
    _column("config_hash", pa.string(), "Hash of the settings that change mattes; the weights are in weights_sha256"),
    _column("labelled_at", pa.timestamp("ms", tz="UTC"), "When the matte was made"),
]


def _hugging_face_features() -> dict[str, Any]:
    """Describe the columns so that Hugging Face `datasets` shows alphas as pictures."""
    features: dict[str, Any] = {}
    for column in _COLUMNS:
        if column.type == _IMAGE:
            # Without a mode, or 16-bit alphas would be cut to 8 bits: mode L clips them at 255.
            features[column.name] = {"_type": "Image"}
        else:
            features[column.name] = _hugging_face_value(column.type)
    return {"info": {"features": features}}


def _hugging_face_value(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _hugging_face_value(kind.value_type), "_type": "List"}
    names = {"double": "float64", "float": "float32", "timestamp[ms, tz=UTC]": "timestamp[ms, tz=UTC]"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


RECORDS = pa.schema(_COLUMNS, metadata={"huggingface": json.dumps(_hugging_face_features())})
"""One row per object. Ok and error records share it; an error record has no alpha and no features."""
