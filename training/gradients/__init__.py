"""Distributed source coding of gradients in a `torch.distributed` job.

    from training.gradients import DistributedGradientCode

    ddp = DistributedDataParallel(model)
    hook = DistributedGradientCode("code.safetensors")
    hook.register(ddp)

code   what turns a vector into a few bytes and, with side information, back
hook   the communication hook: rank 0's gradient is the side information for those of all other ranks
"""

from training.gradients.code import GradientCode, GradientCodeConfig, VectorCode
from training.gradients.hook import DistributedGradientCode, Traffic

__all__ = ["DistributedGradientCode", "GradientCode", "GradientCodeConfig", "Traffic", "VectorCode"]
