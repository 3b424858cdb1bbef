"""Speed and memory; what is learned stays the same but for rounding."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EfficiencyConfig:
    """The parameter group `training.efficiency`."""

    gradient_checkpointing: bool = False
    """Compute activations twice to save most of their memory, at the price of a third of speed; in
    the text encoders, too, where they learn."""
    channels_last: bool = False
    """Keep the U-Net's weights with channels innermost, which cards with tensor cores prefer."""
    tf32: bool = False
    """CUDA: let float32 matrix products round to 10 bits of mantissa, several times as fast."""
    offload: bool = False
    """CUDA: move text encoder and VAE to the host's memory once everything is encoded."""
    compile: bool = False
    """Let PyTorch compile the U-Net's blocks, which takes some minutes at the start. For long
    trainings on a GPU; needs a C++ compiler, and on CUDA triton."""
    cuda_graphs: bool = False
    """CUDA: capture a step once and launch it as a whole, for cards that are faster than the host
    can tell them what to do. What a step holds stays reserved between the steps."""
    deterministic: bool = False
    """CUDA: only kernels that give the same bits in each run; slower."""
