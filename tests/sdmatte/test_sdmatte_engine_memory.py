import torch

from sdmatte.engine.memory import scratch


def test_scratch_space_from_inference_mode_can_be_written_outside_of_it() -> None:
    shape = (1 << 20,)  # more than other tests have asked for
    with torch.inference_mode():
        first = scratch(shape)[0]
    with torch.no_grad():
        again = scratch(shape)[0].fill_(1)
    assert again.data_ptr() == first.data_ptr()
    assert again.dtype == torch.float32
