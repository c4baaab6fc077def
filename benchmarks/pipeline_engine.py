"""The bare engine: a model's calls and nothing else, on images that are decoded before.

Started by `benchmarks/pipeline.py` as a process of its own: `python benchmarks/pipeline_engine.py FOLDER SOURCE SIZE
BATCH THREADS`, with the folder of the tar shards. Prints objects and seconds as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `benchmarks`, when run as a script


def main(argv: Sequence[str]) -> int:
    """Compute; returns the exit code."""
    folder, source, size, batch, threads = argv
    import torch

    from benchmarks.pipeline_set import boxes
    from sdmatte import SDMatte
    from sdmatte.images import decode_image
    from sdmatte.prompts import Box

    torch.set_num_threads(int(threads))
    model = SDMatte.from_pretrained(source, device="cpu", input_size=int(size))
    pairs = [pair for tar in sorted(Path(folder).glob("*.tar")) for pair in boxes(tar.read_bytes())]
    pixels = [decode_image(image).pixels for image, _ in pairs]
    prompts = [Box(*box) for _, box in pairs]

    def run(at: int) -> int:
        encoded = model.encode(pixels[at : at + int(batch)])
        return len(model.matte(list(zip(encoded, prompts[at : at + int(batch)], strict=True))))

    run(0)  # the first call is slower, in the pipeline also before what is timed
    start, spent, done = time.perf_counter(), time.process_time(), 0
    for at in range(0, len(pairs), int(batch)):
        done += run(at)
    print(json.dumps({"images": done, "seconds": time.perf_counter() - start, "cpu": time.process_time() - spent}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
