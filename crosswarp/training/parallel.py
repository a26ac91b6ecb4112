"""Networks that several processes train together: gradients, and statistics of batches, are those of all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import processes


class DistributedDataParallel(nn.parallel.DistributedDataParallel):
    """Torch's wrapper of the same name, for the trainer alone; all else goes on to use the network itself.

    Checkpoints, averages and validation know nothing of it, and a training goes on with any number of
    processes. Batch norms take the statistics of the whole batch: torch's ``SyncBatchNorm`` on
    GPUs, :class:`WholeBatchNorm` elsewhere.

    Args:
        module: the network, on its device.
        find_unused_parameters: True where not all of the network takes part in each step.
        kwargs: of torch's class.
    """

    def __init__(self, module: nn.Module, find_unused_parameters: bool = False, **kwargs: Any) -> None:
        if any(parameter.is_cuda for parameter in module.parameters()):
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # in place: a network is more than one norm
        else:
            normalise_whole_batches(module)
        super().__init__(
            module, broadcast_buffers=False, find_unused_parameters=find_unused_parameters, **kwargs
        )


class WholeBatchNorm(_BatchNorm):
    """Torch's ``SyncBatchNorm`` for CPUs: training takes the statistics of the batch of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[B, C, *spatial]``."""
        if not self.training or processes.count() == 1:
            return super().forward(input)
        values = input.float()
        axes, shape = [0, *range(2, input.dim())], [1, -1, *[1] * (input.dim() - 2)]
        size = processes.count() * values.numel() // values.shape[1]
        mean = processes.summed(values.sum(axes)) / size
        centred = values - mean.view(shape)
        variance = processes.summed(centred.square().sum(axes)) / size
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * size / max(size - 1, 1))
        result = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes will do."""

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            running.lerp_(value.to(running.dtype), share)


def normalise_whole_batches(network: nn.Module) -> None:
    """Put a :class:`WholeBatchNorm` in the place of each batch norm in a network, with its very weights."""
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, WholeBatchNorm):
            norm = WholeBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
            norm.train(child.training)
            norm.track_running_stats = child.track_running_stats
            for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(norm, key, getattr(child, key))
            setattr(network, name, norm)
        else:
            normalise_whole_batches(child)


class LeastOf:
    """Of the images at hand, those that are among a batch's with the least of a value.

    Where several processes share the batch, one may have none of them: it computes with one, at no weight.

    Args:
        values: of the images at hand ``[b]``.
        share: of the whole batch to take; at least one image.

    Attributes:
        numbers: of the images at hand, of the least value first.
        rows: their places among those taken of the whole batch.
        total: how many are taken of the whole batch.
        weight: of their mean, so that the mean over the processes is that of all taken.
    """

    def __init__(self, values: Tensor, share: float) -> None:
        whole = processes.gathered(values)
        taken = whole.argsort()[: max(1, round(share * len(whole)))]
        self.total, self.numbers, self.weight = len(taken), taken, 1.0
        if processes.count() > 1:
            first = processes.number() * len(values)
            self.rows = ((taken >= first) & (taken < first + len(values))).nonzero()[:, 0]
            self.weight = len(self.rows) * processes.count() / self.total
            self.numbers = taken[self.rows] - first
            if not len(self.rows):
                self.rows = self.numbers = taken.new_zeros(1)


def drawn_for(images: Mapping[str, Tensor], parts: Mapping[str, LeastOf]) -> AbstractContextManager[None]:
    """Within, what is drawn is for images of several kinds, one after the other.

    Args:
        images: by kind ``[b, C, *spatial]``, each a share of a batch, or a part of one.
        parts: which part, for kinds of which only some are taken.
    """
    if processes.count() == 1:
        return nullcontext()
    rows, total = [], 0
    for kind, each in images.items():
        if kind in parts:
            rows.append(total + parts[kind].rows)
            total += parts[kind].total
        else:
            own = torch.arange(len(each), device=each.device)
            rows.append(total + processes.number() * len(each) + own)
            total += processes.count() * len(each)
    return processes.at_rows(torch.cat(rows), total)
