"""An encoder of Label Studio's brush run lengths, written from their description, apart from the decoder."""

import numpy as np


def packed(values, sizes=(3, 4, 8, 16), literal=lambda _: False):
    """Encode bytes as rle-pack does, bit by bit; `literal` says whether a value stands for itself."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    at = 0
    while at < len(values):
        stop = at + 1
        if literal(at):
            while stop < len(values) and literal(stop) and stop - at < 2 ** sizes[-1]:
                stop += 1
        else:
            while (
                stop < len(values) and values[stop] == values[at] and not literal(stop) and stop - at < 2 ** sizes[-1]
            ):
                stop += 1
        which = next(n for n, size in enumerate(sizes) if stop - at <= 2**size)
        bits += f"{0 if literal(at) else 1:b}{which:02b}{stop - at - 1:0{sizes[which]}b}"
        bits += "".join(f"{value:08b}" for value in (values[at:stop] if literal(at) else values[at : at + 1]))
        at = stop
    bits += "0" * (-len(bits) % 8)
    return [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]


def rgba(alpha, colour=(200, 0, 255)):
    values = np.zeros((*alpha.shape, 4), np.uint8)
    values[..., :3], values[..., 3] = colour, alpha
    return values.ravel().tolist()
