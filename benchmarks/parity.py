"""How far the model is from the reference implementation's outputs, float32 on the CPU.

`make parity` runs it on both tiny models; `--full` takes the released configuration instead. Prints every case, the
largest deviation last, and exits non-zero when a target is missed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]  # for `support`; the root first, or tests/sdmatte hides the package


def main() -> int:
    """Print the deviations; return 0 if all are within the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the released configuration at 256 px (about 12 GB)")
    folders = ["sdmatte_full"] if parser.parse_args().full else ["sdmatte_tiny", "litesdmatte_tiny"]

    from support.parity import ALPHA_TARGET, FIXTURES, UNET_TARGET, deviations

    start = time.perf_counter()
    found = []
    for folder in folders:
        for deviation in deviations(FIXTURES / folder):
            print(f"{deviation.case:42} alpha {deviation.alpha:.2e}   U-Net {deviation.unet:.2e}", flush=True)
            found.append(deviation)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{time.perf_counter() - start:.0f} s, peak memory {memory:.1f} GiB, {len(found)} cases")
    unet, alpha = max(d.unet for d in found), max(d.alpha for d in found)
    passed = alpha <= ALPHA_TARGET and unet <= UNET_TARGET
    print(f"largest deviation of the U-Net output: {unet:.2e} relative (target {UNET_TARGET:.0e})")
    print(f"largest deviation of an alpha: {alpha:.2e} (target {ALPHA_TARGET:.0e}): {'met' if passed else 'MISSED'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
