"""Tiny networks, one for each construction that real models bring, with the shape of their input."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.stages import Captured


def conv_bn(inputs: int, outputs: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> list[nn.Module]:
    """Convolution without bias and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def average() -> list[nn.Module]:
    """Global average pooling to features."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class Block(nn.Module):
    """A residual block whose sum is written in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, channels)
        self.conv2, self.bn2 = conv_bn(channels, channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class Residual(nn.Module):
    """Two residual blocks, pooling, dropout and the oldest way to flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 8), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(self.stem(x)))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.fc(self.drop(x.view(x.size(0), -1)))


class Inverted(nn.Module):
    """MobileNetV2's block: expansion, depthwise, linear bottleneck; a skip where shapes allow."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *conv_bn(inputs, 12, 1), nn.ReLU6(inplace=True), *conv_bn(12, 12, 3, 12), nn.ReLU6(inplace=True),
            *conv_bn(12, outputs, 1),
        )  # fmt: skip
        self.skip = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skip else self.conv(x)


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(*conv_bn(3, 6, stride=2), nn.ReLU6()), Inverted(6, 8), Inverted(8, 8), Inverted(8, 6)
        )
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Squeeze(nn.Module):
    """MobileNetV3: hard-swish, squeeze-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 8), nn.Hardswish(inplace=True))
        self.body = nn.Sequential(*conv_bn(8, 8), nn.Hardswish(), Gate(8), *conv_bn(8, 8, 1))
        self.head = nn.Sequential(*average(), nn.Linear(8, 6), nn.Hardswish(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.body(x))


class ShuffleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(*conv_bn(4, 4, 1), nn.ReLU(), *conv_bn(4, 4, 3, 4), *conv_bn(4, 4, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        out = torch.cat((left, self.branch(right)), dim=1)
        batch, channels, height, width = out.size()
        out = out.view(batch, 2, channels // 2, height, width)
        return torch.transpose(out, 1, 2).contiguous().view(batch, channels, height, width)


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 8), nn.ReLU())
        self.blocks = nn.Sequential(ShuffleBlock(), ShuffleBlock())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean([2, 3]))


class PreBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(out))) + x


class PreActivation(nn.Module):
    """Batch norm before the convolution; the last one before the pooling is called `batch_norm` on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(PreBlock(), PreBlock())
        self.batch_norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.batch_norm(self.blocks(self.stem(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv(F.relu(self.norm(torch.cat(features, 1))))


class Dense(nn.Module):
    """Every layer reads all features before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 4), nn.ReLU())
        self.layers = nn.ModuleList([DenseLayer(4), DenseLayer(8), DenseLayer(12)])
        self.norm, self.fc = nn.BatchNorm2d(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(features))
        x = F.relu(self.norm(torch.cat(features, 1)), inplace=True)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(nn.Module):
    """A long skip over everything between."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(*conv_bn(3, 6), nn.ReLU())
        self.down = nn.Sequential(nn.MaxPool2d(2), *conv_bn(6, 6), nn.ReLU(), *conv_bn(6, 6), nn.ReLU())
        self.up = nn.ConvTranspose2d(6, 6, 2, 2)
        self.mix = nn.Sequential(*conv_bn(12, 6), nn.ReLU())
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enter(x)
        return self.out(self.mix(torch.cat([skip, self.up(self.down(skip))], 1)))


class Tied(nn.Module):
    """One convolution used twice, each time with a batch norm of its own, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.one, self.two = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.bn3, self.fc = nn.BatchNorm1d(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.bn2(self.conv(F.relu(self.bn1(self.conv(x))))))
        x = x.mean((2, 3))
        return self.fc(F.relu(self.bn3(self.two(F.relu(self.one(x))))))


class Paddings(nn.Module):
    """Even and uneven `same`, a pad of its own, average pooling that drops a row, functional relu6 and clamp."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.Conv2d(3, 4, 3, padding="same")
        self.even = nn.Conv2d(4, 4, (2, 4), padding="same", dilation=(1, 2))
        self.valid = nn.Conv2d(4, 4, 2, padding="valid")
        self.last = nn.Conv2d(4, 6, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.odd(x))
        x = torch.clamp(self.even(x), min=0)
        x = self.valid(F.pad(x, (1, 0, 2, 1))).clamp(-1, 1)
        x = F.relu(self.last(x[:, :, ::2, 1:])).clamp_(min=0.0)
        return self.fc(F.avg_pool2d(x, 5).reshape(-1, 6))


class InPlace(nn.Module):
    """What is overwritten is read again later."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        y = self.two(x)
        y.add_(x)
        x.relu_()
        y += x
        x *= y
        return self.fc((x + y).mean([2, 3]))


class Floats(nn.Module):
    """Float operators between integer ones: GELU, softmax, layer norm; and a network that ends in a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.norm, self.fc, self.head = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(F.gelu(self.one(x)))
        x = self.fc(self.norm(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return F.relu(self.head(x * x.softmax(-1)))


class Functional(nn.Module):
    """Layers as calls with parameters of one module, two residual sums among them; one reads a module's weight."""

    def __init__(self) -> None:
        super().__init__()

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.2 * torch.randn(*shape))

        self.w0, self.b0 = weights(8, 3, 3, 3), weights(8)
        self.inner = nn.ParameterList([weights(8, 8, 3, 3) for _ in range(4)])
        self.c = nn.Conv2d(8, 8, 1)
        self.fw, self.fb = weights(5, 8), weights(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(F.conv2d(x, self.w0, self.b0, padding=1)), 2)
        for one, two in ((0, 1), (2, 3)):
            y = F.relu(F.conv2d(x, self.inner[one], padding=1))
            x = F.relu(x + F.conv2d(y, self.inner[two], padding=1))
        x = F.relu(F.conv2d(x, self.c.weight, self.c.bias))
        return F.linear(x.mean((2, 3)), self.fw, self.fb)


def ends_in_conv() -> nn.Module:
    """Convolutions only; maps come out."""
    return nn.Sequential(OrderedDict(one=nn.Conv2d(3, 4, 3), relu=nn.ReLU(), two=nn.Conv2d(4, 5, 3)))


def ends_in_pool() -> nn.Module:
    """SqueezeNet's end: a convolution as classifier, then the average."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.ReLU(), *average())


def perceptron() -> nn.Module:
    """Linear layers only, batch norm over features."""
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))


IMAGE = (3, 12, 12)
NETS = {
    "residual": (Residual, IMAGE), "mobile": (Mobile, IMAGE), "squeeze": (Squeeze, IMAGE),
    "shuffle": (Shuffle, IMAGE), "pre_activation": (PreActivation, IMAGE), "dense": (Dense, IMAGE),
    "unet": (UNet, IMAGE), "tied": (Tied, IMAGE), "paddings": (Paddings, IMAGE), "in_place": (InPlace, IMAGE),
    "floats": (Floats, IMAGE), "ends_in_conv": (ends_in_conv, IMAGE), "ends_in_pool": (ends_in_pool, IMAGE),
    "perceptron": (perceptron, (3, 2, 2)),
}  # fmt: skip


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in eval mode, its batch norms with statistics and affine parameters that are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.eval()


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The named network with seeded numbers, and a batch of three inputs."""
    factory, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = lively(factory())
        return model, torch.randn(3, *shape)


@functools.cache
def _captured(name: str) -> tuple[Captured, Tensor]:
    model, x = build(name)
    return capture(model, x[:1], name=name), x


def captured_net(name: str) -> tuple[Captured, Tensor]:
    """`build`, captured; a copy of its own for every caller."""
    captured, x = _captured(name)
    return dataclasses.replace(captured, graph=copy.deepcopy(captured.graph)), x.clone()


def captured_of(model: nn.Module, *shape: int) -> tuple[Captured, Tensor]:
    """Any module with seeded images of `shape`."""
    x = torch.randn(3, *(shape or IMAGE), generator=torch.Generator().manual_seed(1))
    return capture(lively(model), x[:1]), x


def operators(graph: fx.GraphModule) -> list[str]:
    """Canonical names of the calls, in execution order."""
    return [op_name(node) for node in graph.graph.nodes if node.op == "call_function"]


def find(graph: fx.GraphModule, name: str, index: int = 0) -> fx.Node:
    """The `index`-th call of canonical operator `name`."""
    return [node for node in graph.graph.nodes if op_name(node) == name][index]


def find_call(graph: fx.GraphModule, name: str, index: int = 0) -> Call:
    """The same as a call, in a view of its own."""
    return Calls(graph)[find(graph, name, index)]


def layer_names(graph: fx.GraphModule) -> list[str]:
    """The names of all layers, in execution order."""
    layers = Layers(Calls(graph))
    return [layers.name(layer) for layer in layers]


def snapshot(graph: fx.GraphModule) -> list[tuple]:
    """What a second run of a pass must leave as it is."""
    return [(n.op, n.name, str(n.target), str(n.args), str(n.kwargs)) for n in graph.graph.nodes]


def run(graph: nn.Module, x: Tensor) -> Tensor:
    """The output without gradients."""
    with torch.no_grad():
        return graph(x)


def run_many(graph: nn.Module, values: list[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of a sub-graph with several inputs, without gradients."""
    with torch.no_grad():
        return graph(*values)
