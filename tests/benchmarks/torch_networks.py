"""The Conv-TasNet of paper 001 in PyTorch, written plainly: what the one in JAX is compared with.

Needs torch, which nothing else in this repository does: the extra `bench`.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-8
CLIP = 5.0  # the largest norm of a gradient
RATE = 1e-3  # of learning


class ChannelNorm(nn.Module):
    """Layer normalisation of each frame over its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to the same."""
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class GlobalNorm(nn.Module):
    """Layer normalisation over channels and time together, with a gain and a bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to the same."""
        centred = x - x.mean((1, 2), keepdim=True)
        variance = centred.square().mean((1, 2), keepdim=True)
        return self.gain * (centred * torch.rsqrt(variance + EPS)) + self.bias


class Block(nn.Module):
    """A residual block: 1x1, depthwise convolution with gaps, 1x1."""

    def __init__(self, bottleneck: int, hidden: int, kernel: int, dilation: int) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.layers = nn.Sequential(
            nn.Conv1d(bottleneck, hidden, 1, bias=False),
            nn.PReLU(),
            GlobalNorm(hidden),
            nn.Conv1d(hidden, hidden, kernel, padding=padding, dilation=dilation, groups=hidden, bias=False),
            nn.PReLU(),
            GlobalNorm(hidden),
            nn.Conv1d(hidden, bottleneck, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to the same."""
        return x + self.layers(x)


class ConvTasNet(nn.Module):
    """Filters learned from the waveform, masks on what they give, and back: (B, N) to (B, 2, N).

    Frames are `length` samples long and overlap by half. A mixture must be a whole number of hops, two or more.
    """

    def __init__(
        self,
        filters: int = 256,
        length: int = 20,
        bottleneck: int = 256,
        hidden: int = 512,
        kernel: int = 3,
        blocks: int = 8,
        repeats: int = 4,
        sources: int = 2,
    ) -> None:
        super().__init__()
        self.length, self.hop, self.sources = length, length // 2, sources
        self.encoder = nn.Conv1d(1, filters, length, stride=self.hop, bias=False)
        dilations = [2**x for _ in range(repeats) for x in range(blocks)]
        self.separator = nn.Sequential(
            ChannelNorm(filters),
            nn.Conv1d(filters, bottleneck, 1, bias=False),
            *(Block(bottleneck, hidden, kernel, dilation) for dilation in dilations),
            nn.Conv1d(bottleneck, sources * filters, 1, bias=False),
            nn.ReLU(),
        )
        self.decoder = nn.Linear(filters, length, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """The sources of (B, N) mixtures, (B, 2, N)."""
        batch, samples = mixture.shape
        coded = functional.relu(self.encoder(mixture[:, None]))
        masks = self.separator(coded).unflatten(1, (self.sources, -1))
        frames = self.decoder((masks * coded[:, None]).transpose(2, 3))  # (B, 2, T, length)
        columns = frames.flatten(0, 1).transpose(1, 2)
        heard = functional.fold(columns, (1, samples), (1, self.length), stride=(1, self.hop))
        return heard.view(batch, self.sources, samples)


class WholeFrames(nn.Module):
    """The same with half a frame of silence on both sides, as ours has it: every sample is in two frames."""

    def __init__(self, network: ConvTasNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, mixture: Tensor) -> Tensor:
        """The sources of (B, N) mixtures, (B, 2, N)."""
        hop = self.network.hop
        return self.network(functional.pad(mixture, (hop, hop)))[..., hop:-hop]


def fill(network: ConvTasNet, weights: Mapping[str, np.ndarray]) -> None:
    """Give it the weights of ours, by the names in `bayessep.models.conv_tasnet`, where matrices are (in, out)."""
    separator = network.separator

    def put(parameter: Tensor, values: np.ndarray) -> None:
        parameter.data = torch.from_numpy(np.array(values.T, np.float32)).reshape(parameter.shape)

    put(network.encoder.weight, weights["encoder"])
    put(network.decoder.weight, weights["decoder"])
    put(separator[0].norm.weight, weights["norm_gain"])
    put(separator[0].norm.bias, weights["norm_bias"])
    put(separator[1].weight, weights["narrow"])
    put(separator[-2].weight, weights["masks"])
    for n, block in enumerate(separator[2:-2]):
        own = {name: w.reshape(-1, *w.shape[2:])[n] for name, w in weights.items() if w.ndim > 2}
        enter, first, norm, taps, second, other_norm, leave = block.layers
        for layer, name in ((enter, "enter"), (taps, "taps"), (leave, "leave")):
            put(layer.weight, own[name])
        for n_th, (prelu, normed) in enumerate(((first, norm), (second, other_norm))):
            put(prelu.weight, own["slope"][n_th])
            put(normed.gain, own["gain"][n_th])
            put(normed.bias, own["bias"][n_th])


def si_sdr(estimate: Tensor, true: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB over the last axis, means taken off."""
    estimate = estimate - estimate.mean(-1, keepdim=True)
    true = true - true.mean(-1, keepdim=True)
    scale = (estimate * true).sum(-1, keepdim=True) / (true.square().sum(-1, keepdim=True) + EPS)
    target = scale * true
    ratio = target.square().sum(-1) / ((estimate - target).square().sum(-1) + EPS)
    return 10 * torch.log10(ratio + EPS)


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """What the network of paper 001 is trained with."""
    return torch.optim.Adam(model.parameters(), lr=RATE)


def train_step(model: nn.Module, optimiser: torch.optim.Optimizer, mixture: Tensor, sources: Tensor) -> float:
    """One step on (B, N) mixtures of (B, 2, N) sources; the loss, minus the mean SI-SDR over both sources."""
    optimiser.zero_grad(set_to_none=True)
    loss = -si_sdr(model(mixture), sources).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimiser.step()
    return float(loss.detach())
