"""The masking network of paper 002 in PyTorch, written plainly: what the one in JAX is compared with.

Modules have the names of ours, so that weights find their places. Needs torch: the extra `bench`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-5
NEAR, REAL = 20.0, 10.0  # weights of R1 to R4, and of what discriminators say
RATE, DECAY, HALVED = 1e-4, 1e-4, 100_000  # of learning; of parameters; steps after which learning is half as fast


def conv(n_in: int, n_out: int, taps: int, stride: int = 1) -> nn.Conv2d:
    """A convolution of mirrored edges."""
    return nn.Conv2d(n_in, n_out, taps, stride, (taps - stride) // 2, padding_mode="reflect")


def instance_norm(channels: int) -> nn.InstanceNorm2d:
    """Each channel of each image by itself; and running statistics, for work."""
    return nn.InstanceNorm2d(channels, EPS, track_running_stats=True)


class LayerNorm(nn.Module):
    """Each image by its mean and its deviation, then a gain and a bias of each channel. (torch's own divides otherwise.)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        deviation, mean = torch.std_mean(x, (1, 2, 3), keepdim=True)
        return (x - mean) / (deviation + EPS) * self.gain + self.bias


class Residual(nn.Module):
    """Two convolutions of 3x3, and what went in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.norm = conv(channels, channels, 3), instance_norm(channels)
        self.second, self.last_norm = conv(channels, channels, 3), instance_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return x + self.last_norm(self.second(functional.relu(self.norm(self.first(x)))))


class Generator(nn.Module):
    """What is left of images, (B, 1, T, F) from -1 to 1, when they are masked."""

    def __init__(self, channels: int = 64, blocks: int = 4) -> None:
        super().__init__()
        c = channels
        self.enter = nn.ModuleList([conv(1, c, 7), conv(c, 2 * c, 4, 2), conv(2 * c, 4 * c, 4, 2)])
        self.norms = nn.ModuleList(instance_norm(n * c) for n in (1, 2, 4))
        self.blocks = nn.Sequential(*(Residual(4 * c) for _ in range(2 * blocks)))
        self.up = nn.ModuleList([conv(4 * c, 2 * c, 5), conv(2 * c, c, 5)])
        self.up_norms = nn.ModuleList([LayerNorm(2 * c), LayerNorm(c)])
        self.leave = conv(c, 1, 7)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, T, F) to the same."""
        x = images
        for layer, norm in zip(self.enter, self.norms, strict=True):
            x = functional.relu(norm(layer(x)))
        x = self.blocks(x)
        for layer, norm in zip(self.up, self.up_norms, strict=True):
            x = functional.relu(norm(layer(functional.interpolate(x, scale_factor=2.0))))
        return torch.sigmoid(self.leave(x)) * (images + 1) - 1


class Discriminator(nn.Module):
    """How real an image is, part by part, at several scales: 1 is real."""

    def __init__(self, channels: int = 64, layers: int = 4, scales: int = 3) -> None:
        super().__init__()
        widths = [1, *(channels * 2**n for n in range(layers))]

        def scale() -> nn.ModuleList:
            halving = (conv(n_in, n_out, 4, 2) for n_in, n_out in zip(widths[:-1], widths[1:], strict=True))
            return nn.ModuleList([*halving, conv(widths[-1], 1, 1)])

        self.scales = nn.ModuleList(scale() for _ in range(scales))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 1, T, F) to a map of each scale."""
        x, found = images, []
        for n, scale in enumerate(self.scales):
            *halving, last = scale.children()
            x = functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False) if n else x
            y = x
            for layer in halving:
                y = functional.leaky_relu(layer(y), 0.2)
            found.append(last(y))
        return found


def fill(network: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Give it the weights of ours, which end in the axes (in, out), by the names that they have there."""
    for name, parameter in network.named_parameters():
        values = weights[name.replace("weight", "kernel")].transpose(3, 2, 0, 1)
        parameter.data = torch.from_numpy(np.array(values, np.float32)).reshape(parameter.shape)


def added(x: Tensor, y: Tensor) -> Tensor:
    """Two sounds at once, of magnitudes from 0 to 1."""
    return (x + y + 1).clamp(-1, 1)


def taken_off(x: Tensor, y: Tensor) -> Tensor:
    """What is left of x without y."""
    return (x - y - 1).clamp(-1, 1)


def score(said: Sequence[Tensor], wanted: float) -> Tensor:
    """How far what a discriminator says is from what is wanted, over its scales."""
    return torch.stack([(of - wanted).square().mean() for of in said]).sum()


class Side(NamedTuple):
    """Networks that learn together, their optimiser, and how fast they learn when."""

    networks: nn.ModuleDict
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler


def side(**networks: nn.Module) -> Side:
    """What the networks of paper 002 are trained with."""
    together = nn.ModuleDict(networks)
    optimiser = torch.optim.Adam(together.parameters(), RATE, (0.5, 0.999), weight_decay=DECAY)
    return Side(together, optimiser, torch.optim.lr_scheduler.StepLR(optimiser, HALVED, 0.5))


def learn(side: Side, loss: Tensor) -> None:
    """One step down."""
    side.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    side.optimiser.step()
    side.schedule.step()


def train_step(generator: Side, critics: Side, a: Tensor, c: Tensor) -> dict[str, float]:
    """One iteration on mixtures a and music c, (B, 1, T, F), by the discriminators C and A; all its losses.

    The images that are made serve both steps, for in between the generator does not change; and what is independent goes through
    the networks together.
    """
    g = generator.networks["g"]
    g_a, g_c = g(torch.cat([a, c])).chunk(2)
    b = taken_off(a, g_a)
    abar = added(b, c)

    said = {}
    for name, fake, real in (("C", g_a, c), ("A", abar, a)):
        halves = [of.chunk(2) for of in critics.networks[name](torch.cat([fake.detach(), real]))]
        said[f"D_{name}"] = score([of for of, _ in halves], 0.0) + score([of for _, of in halves], 1.0)
    learn(critics, REAL * (said["D_C"] + said["D_A"]))

    critics.networks.requires_grad_(False)
    g_g_a, g_abar = g(torch.cat([g_a, abar])).chunk(2)
    near = {
        "R1": functional.l1_loss(g_c, c),
        "R2": functional.l1_loss(g_g_a, g_a),
        "R3": functional.l1_loss(g_abar, c),
        "R4": functional.l1_loss(taken_off(abar, g_abar), b),
    }
    real = {f"GAN_{name}": score(critics.networks[name](fake), 1.0) for name, fake in (("C", g_a), ("A", abar))}
    loss = NEAR * torch.stack([*near.values()]).sum() + REAL * torch.stack([*real.values()]).sum()
    learn(generator, loss)
    critics.networks.requires_grad_(True)
    return {name: float(of.detach()) for name, of in (said | near | real | {"loss": loss}).items()}
