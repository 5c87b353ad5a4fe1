"""All of recipes/ from one description: a family a method, a file a bit width.

    python tools/make_recipes.py           # writes recipes/*.yaml
    python tools/make_recipes.py --check   # exit code 1 where a file differs, is missing or is not described here

A file is written out in full, because it is the experiment; this description only keeps more than a hundred of them in
step. Values are YAML text as it stands in the file. What depends on the network in the papers is a family of its own,
because a recipe never branches on the model.

What our own measurements chose, where the papers have nothing, stands in `SMALL_FDDA`, `SMALL_DMBQ` and `WIDER`.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "recipes"
WIDTH = 118
FIXED = "\0"  # a space at which no line is folded
ALL = ("w8a8", "w4a8", "w4a4", "w3a3", "w2a4", "w2a2", "w4a2")
BELOW_8 = ALL[1:]
DATA_FREE_ROWS = ("w8a8", "w4a4", "w3a3", "w2a2")
FDDA_ROWS = ("w4a4", "w5a5")
DMBQ_ROWS = ("w4a4", "w2a2")
ZEROQ_ROWS = ("w8a8", "w4a8", "w8a4", "w4a4")
CAPTQ_ROWS = ("w4a4", "w3a3", "w2a4", "w2a2")


@dataclass(frozen=True)
class Family:
    """Recipes that differ in their bits only.

    Args:
        name: of the recipes, in front of `_w<bits>a<bits>`.
        paper: the comment above what the policy adds: the paper and where the numbers come from.
        method: its name and parameters.
        bits: the widths that the family has.
        policy: below W8A8, where all layers are equal already.
        policy_comment: in the place of the usual words about the policy.
        range: of weights and activations.
        source: of the calibration images.
        weights, activations, images: further keys of these rules.
        overrides: lines of that list, where activations have fewer than 8 bits.
        at_8: parameters of the method that W8A8 changes.
    """

    name: str
    paper: str
    method: Mapping[str, str]
    bits: Sequence[str] = ALL
    policy: str = "qdrop"
    range: str = "mse"
    source: str = "files"
    weights: Mapping[str, str] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    overrides: Sequence[str] = ()
    at_8: Mapping[str, str] = field(default_factory=dict)
    policy_comment: str = ""


POLICY_COMMENTS = {
    "qdrop": "policy: qdrop holds the weights of the first and last layer and the classifier's input at 8 bits.",
    "brecq": "policy: brecq holds the weights of the first and last layer and the stem's output at 8 bits; the "
             "classifier's input keeps the low bits in residual networks, as with the released script.",
    "brecq-intended": "policy: brecq-intended holds the weights of the first and last layer, the stem's output and the "
                      "classifier's input at 8 bits, as the paper says; the released script misses the last of them in "
                      "residual networks (policy: brecq). skip_stem goes with a stem output of 8 bits; to compare with "
                      "recipes of policy qdrop: --set policy=qdrop --set method.skip_stem=false",
    "captq": "policy: captq holds the stem's output at 8 bits as well, beside what policy qdrop does: compare with "
             "qdrop_* --set policy=captq, because at W2A2 that alone is worth more points than the selection.",
}
# FDDA has its own name for what policy captq does.
F8L8 = (
    "policy: captq is FDDA's F8L8: 8 bits for the weights of the first and last layer, for the stem's output and for "
    "what the classifier reads, in front of the average and behind it."
)

WHITE_PAPER = "A White Paper on Neural Network Quantization (2021), arXiv 2106.08295, section 3.1"
QDROP_PAPER = (
    "QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization (Wei et al., ICLR 2022), "
    "arXiv 2203.05740; numbers from the paper and its released main branch"
)
BRECQ_PAPER = (
    "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction (Li et al., ICLR 2021), arXiv "
    "2102.05426; numbers from the paper and its released script, which leaves the Fisher weighting off"
)
PDQUANT_PAPER = (
    "PD-Quant: Post-Training Quantization based on Prediction Difference Metric (Liu et al., CVPR 2023), arXiv "
    "2212.07048; numbers from the released code and its settings for {networks}, but for prediction_images: 20 of a "
    "step's 32 images go through the rest of the network, the authors' code takes all (null)."
)
CAPTQ_PAPER = "Calibration Data Selection for Visual Services based on PTQ (CaPTQ), \"{row}\": {selection} {method}"
ZEROQ_PAPER = (
    "ZeroQ: A Novel Zero Shot Quantization Framework (Cai et al., CVPR 2020), arXiv 2001.00281; numbers from the "
    "released code"
)
GDFQ_IMAGES = "Generative Low-bitwidth Data Free Quantization (Xu et al., ECCV 2020), arXiv 2003.03603"
GDFQ_PAPER = (
    GDFQ_IMAGES + "; numbers from the released code for {network}, but for tracking: the authors' stored quotient "
    "(ema_gdfq) is wrong for the first 150 batches. No image is read."
)
FDDA_PAPER = (
    "Fine-grained Data Distribution Alignment for Post-Training Quantization (FDDA, Zhong et al., ECCV 2022), arXiv "
    "2109.04186; numbers from the released code for ImageNet. One labelled image of each class is read."
)
DMBQ_PAPER = (
    "Distribution-aware Adaptive Multi-bit Quantization (DMBQ, Zhao et al., CVPR 2021) with loss-guided bit "
    "allocation; "
)
DMBQ_BITS = (
    "The bits of weights and activations are averages over channels, which have 0 to 4 each. Training with labels: all "
    "images that are there are taken, up to count."
)
AVERAGED = "The average in front of the classifier stays float in the paper; here it has 8 bits."
TAILS = "At W8A8 ranges are wider by half: generated images have shorter tails than real ones."
FREE = "Inputs that are not normalised to mean 0 and deviation 1: --set images.input=free"
RANDOM = "the public code's draw, one image of each class and the rest at random, no image twice;"

QDROP = {"name": "qdrop", "steps": "20000", "keep_prob": "0.5", "rounding_weight": "0.01", "schedule": "fast"}
BRECQ = {
    "name": "brecq", "fisher": "'off'", "steps": "20000", "activation_steps": "5000", "rounding_weight": "0.01",
    "learning_rate": "1.0e-3", "scale_learning_rate": "4.0e-4", "skip_stem": "true", "schedule": "fast",
}
PDQUANT = {
    "name": "pdquant", "steps": "20000", "keep_prob": "0.5", "rounding_weight": "0.01", "temperature": "4.0",
    "reconstruction_weight": "0.1", "correction_tie": "0.02", "learning_rate": "3.0e-3",
    "scale_learning_rate": "4.0e-5", "prediction_images": "20", "schedule": "fast",
}
ADAROUND = {
    "name": "adaround", "steps": "10000", "rounding_weight": "0.01", "learning_rate": "1.0e-3", "warmup": "0.2",
    "beta_start": "20.0", "beta_end": "2.0", "schedule": "fast",
}
DISTILLED = {"count": "64", "iterations": "500", "learning_rate": "0.5", "batch": "32", "input": "unit"}
GENERATED = {
    "count": "1024", "iterations": "4000", "batch": "64", "learning_rate": "1.0e-3", "conditioning": "embedding",
    "statistics_weight": "0.1", "input": "unit",
}
GDFQ = {
    "name": "gdfq", "epochs": "400", "steps": "200", "range_epochs": "4", "warmup_epochs": "4",
    "learning_rate": "1.0e-4", "weight_decay": "1.0e-4", "generator_learning_rate": "1.0e-3",
    "statistics_weight": "0.1", "distillation": "1.0", "temperature": "20.0", "conditioning": "embedding",
    "tracking": "ema_corrected", "averages": "input", "widen": "1.0",
}
# The factor was chosen on the 100 calibration samples of the DS-CNN.
WIDER = {"widen": "1.5"}
FDDA = {
    "name": "fdda", "epochs": "400", "steps": "200", "range_epochs": "4", "warmup_epochs": "50",
    "learning_rate": "1.0e-6", "weight_decay": "1.0e-4", "generator_learning_rate": "1.0e-3", "trust_epochs": "5",
    "label_weight": "0.5", "statistics_weight": "0.2", "class_label_weight": "0.5", "distorted_weight": "0.9",
    "centralised_weight": "0.01", "distillation": "20.0", "temperature": "20.0", "real_images": "16", "crop": "0.08",
    "generated_crop": "0.5", "rate_period": "100", "conditioning": "norm", "tracking": "ema_raw",
    "averages": "input", "widen": "1.0",
}
# For images of 32 pixels, where a crop of 8 % of the area holds three: GDFQ's warm-up for CIFAR, milder crops, no crop
# of generated images, and a cosine that ends with the training instead of coming back up.
SMALL_FDDA = {
    "warmup_epochs": "4", "crop": "0.6", "generated_crop": "1.0", "rate_period": "396", "tracking": "ema_corrected",
}
DMBQ = {
    "name": "dmbq", "start_epochs": "300", "epochs": "300", "learning_rate": "0.05", "weight_decay": "1.0e-4",
    "window": "0.5", "weight_groups": "channel", "activation_groups": "channel", "table": "laplace", "clip": "null",
    "norm": "train", "pad": "4", "distillation": "0.0",
}
# Fine-tuning on a few thousand images: few epochs, a lower rate, and the float network's answers beside the labels.
SMALL_DMBQ = {"start_epochs": "1", "epochs": "14", "learning_rate": "0.01", "window": "0.6", "distillation": "1.0"}
MULTIBIT = {"symmetric": "true", "levels": "multibit"}
NESTED = {"levels": "nested"}
LAST_AT_8 = ("{where: last, activations: {bits: 8}}",)
NO_IMAGES = {"count": "0"}
LSQ = {"name": "lsq", "steps": "20000", "scale_learning_rate": "4.0e-5", "schedule": "fast"}


def _pdquant(network: str, networks: str, rounding: str, temperature: str, correction: str) -> Family:
    """PD-Quant with the released code's settings for one kind of network."""
    changes = {"rounding_weight": rounding, "temperature": temperature, "correction_tie": correction}
    return Family(f"pdquant-{network}", PDQUANT_PAPER.format(networks=networks), {**PDQUANT, **changes}, BELOW_8)


def _fdda(suffix: str, remark: str, method: Mapping[str, str], batch: str) -> tuple[Family, Family]:
    """FDDA with all layers alike (F4L4, F5L5), and with 8 bits at both ends (F8L8)."""
    source = {"source": "one-per-class", "images": {**NO_IMAGES, "batch_size": batch}}
    text = " ".join(filter(None, (FDDA_PAPER, remark)))
    return (
        Family(f"fdda{suffix}", f"{text} All layers alike. {AVERAGED}", method, FDDA_ROWS, policy="none",
               range="minmax", overrides=LAST_AT_8, **source),
        Family(f"fdda-f8l8{suffix}", text, method, FDDA_ROWS, policy="captq", policy_comment=F8L8, range="minmax",
               **source),
    )


def _dmbq(name: str, origin: str, method: Mapping[str, str], count: str, batch: str) -> Family:
    """DMBQ with LBA, first and last layer at 8 bits as in the paper."""
    return Family(
        name, f"{DMBQ_PAPER}{origin} {DMBQ_BITS}", method, DMBQ_ROWS, weights=MULTIBIT, activations=NESTED,
        images={"count": count, "batch_size": batch},
    )


FAMILIES = (
    Family(
        "minmax", "Round to nearest, ranges from the extremes: the baseline of Krishnamoorthi, Quantizing deep "
        "convolutional networks for efficient inference: A whitepaper (2018), arXiv 1806.08342, section 3.",
        {"name": "nearest"}, ("w8a8",), range="minmax",
    ),
    Family(
        "mse", f"Round to nearest, ranges by least squared error: Nagel et al., {WHITE_PAPER}.",
        {"name": "nearest"}, ("w8a8",),
    ),
    Family(
        "nearest", f"Round to nearest, ranges by least error, nothing learned: Nagel et al., {WHITE_PAPER}; what every "
        "learned rounding has to beat. At W8A8 it is mse_w8a8.",
        {"name": "nearest"},
    ),
    Family(
        "adaround", "Up or Down? Adaptive Rounding for Post-Training Quantization (Nagel et al., ICML 2020), arXiv "
        "2004.10568; numbers from the paper. It quantizes weights only, symmetric per tensor, all layers alike; here "
        "the grids, activation ranges and 8-bit layers are those of the other recipes.",
        ADAROUND, weights={"exponent": "2.0"},
    ),
    Family("brecq", f"{BRECQ_PAPER}. rounding_weight: 0.01 is its value for ResNet and RegNet.", BRECQ,
           policy="brecq-intended"),
    Family("brecq-mobilenetv2", f"{BRECQ_PAPER}. rounding_weight: 0.1 is its value for MobileNetV2.",
           {**BRECQ, "rounding_weight": "0.1"}, BELOW_8, policy="brecq-intended"),
    Family("qdrop", f"{QDROP_PAPER}. rounding_weight: 0.01 is the value for ResNet and RegNet; the authors take 0.1 "
           "for MobileNetV2 and 0.2 for MnasNet.", QDROP),
    Family("qdrop-mobilenetv2", f"{QDROP_PAPER}. rounding_weight: 0.1 is the authors' value for MobileNetV2.",
           {**QDROP, "rounding_weight": "0.1"}, BELOW_8),
    Family("qdrop-mnasnet", f"{QDROP_PAPER}. rounding_weight: 0.2 is the authors' value for MnasNet.",
           {**QDROP, "rounding_weight": "0.2"}, BELOW_8),
    Family("pdquant", PDQUANT_PAPER.format(networks="ResNet-18 and ResNet-50"), PDQUANT),
    _pdquant("regnet", "RegNetX", rounding="0.01", temperature="4.0", correction="0.01"),
    _pdquant("mobilenetv2", "MobileNetV2", rounding="0.1", temperature="1.0", correction="0.005"),
    _pdquant("mnasnet", "MnasNet", rounding="0.2", temperature="1.0", correction="0.001"),
    Family(
        "lsq", "Learned Step Size Quantization (Esser et al., ICLR 2020), arXiv 1902.08153, without training the "
        "network: activation scales alone are learned, block by block, and weights round to nearest. Steps and rate "
        "are those of QDrop (arXiv 2203.05740), whose share of the work it shows.",
        LSQ,
    ),
    Family(
        "captq", CAPTQ_PAPER.format(row="Ours+QDrop", selection=RANDOM, method="reconstruction as QDrop, arXiv "
                                    "2203.05740."),
        QDROP, CAPTQ_ROWS, policy="captq", source="captq-random",
    ),
    Family(
        "captq-smooth", CAPTQ_PAPER.format(row="Ours+QDrop", selection="our construction of its claim, the smoothest "
                                           "images of each class (the public code selects none);",
                                           method="reconstruction as QDrop, arXiv 2203.05740."),
        QDROP, CAPTQ_ROWS, policy="captq", source="captq-smooth", images={"statistic": "total-variation"},
    ),
    Family(
        "captq-brecq", CAPTQ_PAPER.format(row="Ours+BRECQ", selection=RANDOM, method="reconstruction as BRECQ, arXiv "
                                          "2102.05426, with the bits of its released script."),
        BRECQ, CAPTQ_ROWS, policy="brecq", source="captq-random",
    ),
    Family(
        "zeroq", f"{ZEROQ_PAPER}. No data: 64 images are distilled out of the network, all layers are quantized alike, "
        "ranges are the extremes. The average in front of the classifier stays float in the paper; here it has 8 bits. "
        f"At W8A8 ranges are wider by a quarter: distilled images have shorter tails than real ones. {FREE}",
        {"name": "zeroq", "widen": "1.0", "averages": "input"}, ZEROQ_ROWS, policy="none", range="minmax",
        source="distilled", images=DISTILLED, overrides=LAST_AT_8,
        at_8={"widen": "1.25"},
    ),
    Family(
        "zeroq-qdrop", f"Data-free QDrop: {QDROP_PAPER}; on images distilled as in ZeroQ (Cai et al., CVPR 2020), "
        f"arXiv 2001.00281. {FREE}",
        QDROP, DATA_FREE_ROWS, source="distilled", images={**DISTILLED, "count": "256"},
    ),
    Family(
        "generated-qdrop", f"Data-free QDrop: {QDROP_PAPER}; on images of GDFQ's generator: {GDFQ_IMAGES}. {FREE}",
        QDROP, DATA_FREE_ROWS, source="generated", images=GENERATED,
    ),
    Family(
        "gdfq", f"{GDFQ_PAPER.format(network='CIFAR-100')} {AVERAGED} {TAILS}", GDFQ, ZEROQ_ROWS,
        policy="none", range="minmax", source="none", images={**NO_IMAGES, "batch_size": "200"},
        overrides=LAST_AT_8, at_8=WIDER,
    ),
    Family(
        "gdfq-imagenet", f"{GDFQ_PAPER.format(network='ImageNet')} {AVERAGED} {TAILS}",
        {**GDFQ, "warmup_epochs": "50", "learning_rate": "1.0e-6", "conditioning": "norm"}, ZEROQ_ROWS, policy="none",
        range="minmax", source="none", images={**NO_IMAGES, "batch_size": "16"}, overrides=LAST_AT_8, at_8=WIDER,
    ),
    *_fdda("", "", FDDA, "16"),
    *_fdda("-small", "For small images, with numbers of our own: a warm-up of 4 epochs, milder crops, and a cosine "
           "that ends with the training.", {**FDDA, **SMALL_FDDA}, "64"),
    _dmbq("dmbq", "numbers from the second released version for CIFAR-10: trained on the whole training set.", DMBQ,
          "50000", "512"),
    _dmbq("dmbq-small", "fine-tuning on a few thousand labelled images, with numbers of our own: few epochs at a lower "
          "rate, and the float network's answers beside the labels.", {**DMBQ, **SMALL_DMBQ}, "50000", "128"),
)


def recipe_texts() -> dict[str, str]:
    """File name -> content of every recipe."""
    return {f"{family.name}_{bits}.yaml": recipe_text(family, bits) for family in FAMILIES for bits in family.bits}


def recipe_text(family: Family, bits: str) -> str:
    """The file of one family at `bits`, for example `w4a8`."""
    weights, activations = bits[1], bits[3]
    policy = "none" if bits == "w8a8" else family.policy
    comments = [family.paper, family.policy_comment or POLICY_COMMENTS[policy]] if policy != "none" else [family.paper]
    # 8-bit weights are symmetric: integer kernels want zero point 0, and 8-bit codes have no room to be moved there.
    symmetric = "true" if weights == "8" else "false"
    return "\n".join([
        *(f"# {line}" for comment in comments for line in _folded(comment, WIDTH - 2)),
        f"name: {family.name}_{bits}",
        _mapping("weights:    ", {"bits": weights, "symmetric": symmetric, "granularity": "per_channel",
                                  "range": family.range, **family.weights}),
        _mapping("activations:", {"bits": activations, "symmetric": "false", "granularity": "per_tensor",
                                  "range": family.range, **family.activations}),
        f"policy: {policy}",
        *_overrides(family, bits),
        "placement: target",
        _mapping("images:", {"source": family.source, "count": "1024", "batch_size": "32",
                             "augment": "eval", **family.images}),
        _mapping("method:", {**family.method, **(family.at_8 if bits == "w8a8" else {})}),
        "passes: []",
        "seed: 1005",
        "",
    ])


def _overrides(family: Family, bits: str) -> list[str]:
    lines = [] if bits[3] == "8" else family.overrides
    return ["overrides:", *(f"  - {line}" for line in lines)] if lines else ["overrides: []"]


def _mapping(key: str, values: Mapping[str, str]) -> str:
    """`key {a: 1, b: 2}`, folded between entries where it is wider than a line."""
    text = "{" + ", ".join(f"{name}:{FIXED}{value}" for name, value in values.items()) + "}"
    return "\n".join(_folded(text, WIDTH, f"{key} "))


def _folded(text: str, width: int, begin: str = "") -> list[str]:
    """Lines of at most `width`, the ones after the first indented to stand inside what `begin` opens."""
    text = text.replace("arXiv ", f"arXiv{FIXED}").replace("--set ", f"--set{FIXED}")
    indent = " " * (len(begin) + 1) if begin else ""
    lines = textwrap.wrap(text, width, initial_indent=begin, subsequent_indent=indent, break_long_words=False,
                          break_on_hyphens=False)
    return [line.replace(FIXED, " ") for line in lines]


def differences(folder: Path) -> list[str]:
    """What in `folder` is not as described: `name: why`."""
    texts = recipe_texts()
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    wrong = {name: "is not described in tools/make_recipes.py" for name in found if name not in texts}
    wrong |= {name: "is missing" for name in texts if name not in found}
    wrong |= {name: "differs from its description" for name in texts
              if name in found and found[name] != texts[name].encode()}
    return [f"{name}: {why}" for name, why in sorted(wrong.items())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the folder; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file is wrong")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: recipes/")
    options = parser.parse_args(arguments)
    if not options.check:
        for name, text in recipe_texts().items():
            (options.folder / name).write_bytes(text.encode())
    wrong = differences(options.folder)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
