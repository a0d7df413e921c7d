"""The exponential moving average of adapters: the newest count most."""

from torch import Tensor

from continual.merging.base import rule


@rule("ema")
def ema(stacks: Tensor, start: Tensor, *, decay: float = 0.5) -> Tensor:
    """Return `m_T` with `m_1 = A_1` and `m_k = decay m_{k-1} + (1 - decay) A_k`, for adapters (T, P) in their order."""
    average = stacks[0]
    for stack in stacks[1:]:
        average = average.lerp(stack, 1 - decay)
    return average
