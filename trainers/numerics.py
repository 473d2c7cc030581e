"""What decides the last bit of a result beside the seed."""

import torch


def numerics(device: str, channels_last: bool) -> str:
    """torch's build, the CPU's instructions or the GPU's model, threads and memory layout, as one text.

    Equal texts give equal bits on CPUs; AVX512 and AVX2, or 1 and 2 threads, do not.
    """
    if device == "cpu":
        threads = torch.get_num_threads()
        unit = f"{torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"
    else:
        unit = torch.cuda.get_device_name(device)
    layout = "channels_last" if channels_last else "contiguous"
    return f"torch {torch.__version__}, {unit}, {layout}"
