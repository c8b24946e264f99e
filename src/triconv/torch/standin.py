from __future__ import annotations

import torch
from torch import nn

from . import conv, conv_transpose

ACT = {"identity": lambda t: t, "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


def _reg(module, name, value):
    *path, last = name.split(".")
    for one in path:
        if not hasattr(module, one):
            module.add_module(one, nn.Module())
        module = getattr(module, one)
    module.register_parameter(last, nn.Parameter(value))


class Part(nn.Module):
    def __init__(self, architecture, part, arrays):
        super().__init__()
        self.a, self.part = architecture, part
        for name, array in arrays.items():
            _reg(self, name, torch.from_numpy(array).clone())

    def forward(self, x):
        p = dict(self.named_parameters())
        a = self.a
        n = len(a.stages)
        stages = range(n) if isinstance(self.part, str) else [self.part]
        for s in stages:
            c = a.convolutions[s]
            pre = f"{s}.0" if self.part == "classifier" else f"encoder.{s}"
            x = conv(x, p[f"{pre}.weight"], **c.options)
            x = x + p[f"{pre}.bias"].reshape(-1, *(1,) * len(c.kernel_size))
            x = ACT[a.code if s == n - 1 else a.inner](x)
        if self.part == "classifier":
            return nn.functional.linear(x.flatten(1), p[f"{n + 1}.weight"], p[f"{n + 1}.bias"])
        for s in reversed(stages):
            c = a.convolutions[s]
            w = p[f"encoder.{s}.weight" if a.tied else f"decoder.{s}.weight"]
            x = conv_transpose(x, w, visible_size=c.visible_size, **c.options)
            x = x + p[f"decoder.{s}.bias"].reshape(-1, *(1,) * len(c.kernel_size))
            x = ACT[a.output if s == 0 else a.inner](x)
        return x


def part_of(architecture, part, arrays):
    return Part(architecture, part, arrays)
