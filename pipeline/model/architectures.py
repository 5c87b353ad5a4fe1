"""Networks of the papers that torchvision has no name for, and other key names of those that it has.

Both networks are torchvision's own classes with arguments of the papers: MNASNet with twice the channels, and RegNetX
of 600 million multiply-adds. QDrop's and BRECQ's tables are about them besides ResNet-18/50, MobileNetV2 and
RegNetX-3.2GF, which torchvision has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torchvision.models import MNASNet
from torchvision.models.regnet import BlockParams, RegNet

INPUT_SIDE = 224

# A stage, its first block counted from 1, and what follows: `s1.b1.f.a_bn.weight`.
_REGNET_BLOCK = re.compile(r"s(\d+)\.b(\d+)\.(.*)")
_REGNET_LAYERS = (
    (re.compile(r"^proj\."), "proj.0."),
    (re.compile(r"^bn\."), "proj.1."),
    (re.compile(r"^f\.([abc])\."), r"f.\1.0."),
    (re.compile(r"^f\.([abc])_bn\."), r"f.\1.1."),
)
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
AVERAGING_COUNTER = "n_averaged"  # beside the weights in a state_dict of torch.optim.swa_utils.AveragedModel
COUNTER = ".num_batches_tracked"  # of batch norms: came with torch 0.4.1, not used in inference
_REGNET_ENDS = {"stem.conv.": "stem.0.", "stem.bn.": "stem.1.", "head.fc.": "fc."}
_MOBILENET_BLOCK = re.compile(r"features\.(\d+)\.conv\.(\d+)\.(.*)")
# Places in a flat block (convolution, norm, ReLU6, ...) -> torchvision's, which keeps each of these three in a folder.
_MOBILENET_FIRST = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
_MOBILENET_OTHER = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}


def mnasnet2_0(**kwargs: Any) -> MNASNet:
    """torchvision's MNASNet with alpha 2: stem of 64, pointwise 32, last 1x1 convolution of 1,280 channels."""
    return MNASNet(2.0, **kwargs)


def regnet_x_600mf(**kwargs: Any) -> RegNet:
    """torchvision's RegNet: stages of 48, 96, 240, 528 channels with 1, 3, 5, 7 blocks, groups of 24 channels."""
    stages = BlockParams.from_init_params(depth=16, w_0=48, w_a=36.97, w_m=2.24, group_width=24)
    return RegNet(stages, norm_layer=partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1), **kwargs)


ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType({
    "mnasnet2_0": mnasnet2_0, "regnet_x_600mf": regnet_x_600mf,
})


def torchvision_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` under torchvision's names, where they are RegNet's or MobileNetV2's under the two usual other ones.

    RegNet's original names (`s1.b1.f.a_bn.weight`, `head.fc.weight`) and the flat blocks of MobileNetV2 before
    torchvision grouped them (`features.2.conv.7.weight`), as BRECQ's model files have both; all other keys stay.
    """
    rename = _regnet if "stem.conv.weight" in weights else _mobilenet if "features.1.conv.0.weight" in weights else str
    return {rename(key): value for key, value in weights.items()}


def without_wrappers(weights: Mapping[str, Tensor], own: list[str]) -> tuple[dict[str, Tensor], Sequence[str]]:
    """The weights without the prefix that a wrapper puts before every key, unless the network has it too.

    DataParallel and torch.compile have fixed ones. Lightning's is the name that the user gave the network within the
    training module (`model.`, `net.`): it is found where every key of the network stands after one prefix. What else
    the training module holds, a loss with weights for instance, is left.

    Args:
        own: the keys of the network.

    Returns:
        The weights, and what a user should know about the choice.
    """
    weights = {key: value for key, value in weights.items() if key != AVERAGING_COUNTER or key in own}
    stripped = bool(weights)
    while stripped:
        stripped = False
        for prefix in WRAPPER_PREFIXES:
            if all(key.startswith(prefix) for key in weights) and not all(key.startswith(prefix) for key in own):
                weights = {key.removeprefix(prefix): value for key, value in weights.items()}
                stripped = True
    needed = [key for key in own if not key.endswith(COUNTER)]
    if not needed or needed[0] in weights:
        return weights, ()
    prefixes = [key.removesuffix(needed[0]) for key in weights if key.endswith(f".{needed[0]}")]
    prefixes = [prefix for prefix in prefixes if all(prefix + key in weights for key in needed)]
    if not prefixes:
        return weights, ()
    first, *others = sorted(prefixes, key=len)
    inside = {key.removeprefix(first): value for key, value in weights.items() if key.startswith(first)}
    return inside, _prefix_notes(first, others, len(weights) - len(inside))


def _prefix_notes(prefix: str, others: list[str], left: int) -> Sequence[str]:
    if not left:
        return ()
    other = f"; `weights={others[0].removesuffix('.')}` takes the other network" if others else ""
    return (f"the network is what the file calls '{prefix}': {left:,} tensors outside of it were left{other}",)


def _regnet(key: str) -> str:
    if block := _REGNET_BLOCK.fullmatch(key):
        stage, number, layer = block.groups()
        for pattern, name in _REGNET_LAYERS:
            layer, found = pattern.subn(name, layer)
            if found:
                break
        return f"trunk_output.block{stage}.block{stage}-{int(number) - 1}.{layer}"
    start = next((start for start in _REGNET_ENDS if key.startswith(start)), "")
    return _REGNET_ENDS.get(start, "") + key.removeprefix(start)


def _mobilenet(key: str) -> str:
    block = _MOBILENET_BLOCK.fullmatch(key)
    if block is None:
        return key
    index, place, rest = block.groups()
    places = _MOBILENET_FIRST if index == "1" else _MOBILENET_OTHER
    return f"features.{index}.conv.{places.get(place, place)}.{rest}"
