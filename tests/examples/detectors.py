"""Tiny detectors that end as exports of the well-known families do: everything from the head's maps to boxes."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.stages import Captured

SIDE, CLASSES, BINS = 32, 3, 4
SIZES, STRIDES = (8, 4), (4, 8)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())


def _centres(levels: tuple[int, ...] = SIZES) -> Tensor:
    """[2, A] in cells."""
    grids = [torch.stack(torch.meshgrid(torch.arange(s), torch.arange(s), indexing="xy")).flatten(1) for s in levels]
    return torch.cat(grids, 1) + 0.5


def _strides() -> Tensor:
    return torch.cat([torch.full((1, n * n), float(stride)) for n, stride in zip(SIZES, STRIDES, strict=True)], 1)


class _Trunk(nn.Module):
    """Features of two levels, [N, 16, 8, 8] and [N, 16, 4, 4], the finer one with the coarser joined in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine, self.coarse = _conv(3, 8, 2), _conv(8, 16, 2), _conv(16, 16, 2)
        self.neck = _conv(32, 16)

    def levels(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        return [self.neck(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1)), coarse]


class Plain(_Trunk):
    """Two heads on one shared trunk, and nothing after them: logits, and distances that are not negative."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = _conv(16, 16)
        self.classes, self.distances = nn.Conv2d(16, CLASSES, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.shared(self.levels(x)[0])
        return self.classes(shared), torch.relu(self.distances(shared))


class Yolo8(_Trunk):
    """Distances as expectations over bins: view, cat, split, softmax, a fixed 1x1 layer, anchors, strides, sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = nn.ModuleList(nn.Conv2d(16, 4 * BINS, 1) for _ in SIZES)
        self.scores = nn.ModuleList(nn.Conv2d(16, CLASSES, 1) for _ in SIZES)
        self.dfl = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)
        self.dfl.weight.data = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)
        self.register_buffer("centres", _centres())
        self.register_buffer("strides", _strides())

    def forward(self, x: Tensor) -> Tensor:
        """[N, 4 + classes, A], boxes as centre, width and height in pixels."""
        maps = [torch.cat([box(f), score(f)], 1).flatten(2)
                for box, score, f in zip(self.boxes, self.scores, self.levels(x), strict=True)]
        box, score = torch.cat(maps, 2).split((4 * BINS, CLASSES), 1)
        bins = box.view(box.shape[0], 4, BINS, -1).transpose(2, 1).softmax(1)
        low, high = self.dfl(bins).view(box.shape[0], 4, -1).chunk(2, 1)
        start, end = self.centres - low, self.centres + high
        return torch.cat([torch.cat([(start + end) / 2, end - start], 1) * self.strides, score.sigmoid()], 1)


class Yolo5(_Trunk):
    """One layer a level: view, permute, sigmoid, arithmetic with anchors and strides, levels joined."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(16, 2 * (5 + CLASSES), 1) for _ in SIZES)
        for level, size in enumerate(SIZES):
            grid = (_centres((size,)).t() - 0.5).contiguous()
            self.register_buffer(f"grid{level}", grid.view(1, 1, size, size, 2))
            self.register_buffer(f"anchor{level}", torch.tensor([[8.0, 12.0], [16.0, 10.0]]).view(1, 2, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """[N, boxes, 5 + classes]."""
        found = []
        for level, (head, f) in enumerate(zip(self.heads, self.levels(x), strict=True)):
            y = head(f).view(-1, 2, 5 + CLASSES, SIZES[level], SIZES[level]).permute(0, 1, 3, 4, 2).sigmoid()
            xy, wh, rest = y.split((2, 2, 1 + CLASSES), 4)
            xy = (xy * 2 - 0.5 + getattr(self, f"grid{level}")) * STRIDES[level]
            wh = (wh * 2) ** 2 * getattr(self, f"anchor{level}")
            found.append(torch.cat([xy, wh, rest], 4).reshape(-1, 2 * SIZES[level] ** 2, 5 + CLASSES))
        return torch.cat(found, 1)


class Ssd(_Trunk):
    """permute, reshape and cat of every level; softmax of classes, centres and exponentials on priors."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.ModuleList(nn.Conv2d(16, 2 * (1 + CLASSES), 1) for _ in SIZES)
        self.boxes = nn.ModuleList(nn.Conv2d(16, 2 * 4, 1) for _ in SIZES)
        centres = (_centres() * _strides()).t().repeat_interleave(2, 0)
        self.register_buffer("priors", torch.cat([centres, torch.full_like(centres, 12.0)], 1)[None] / SIDE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [N, P, 1 + classes] and boxes [N, P, 4]."""
        levels = self.levels(x)
        scores = self._rows([head(f) for head, f in zip(self.scores, levels, strict=True)], 1 + CLASSES)
        boxes = self._rows([head(f) for head, f in zip(self.boxes, levels, strict=True)], 4)
        centre = boxes[..., :2] * 0.1 * self.priors[..., 2:] + self.priors[..., :2]
        size = torch.exp(boxes[..., 2:] * 0.2) * self.priors[..., 2:]
        return scores.softmax(2), torch.cat([centre - size / 2, centre + size / 2], 2)

    @staticmethod
    def _rows(maps: list[Tensor], width: int) -> Tensor:
        return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[2] * m.shape[3] * 2, width) for m in maps], 1)


class CenterNet(_Trunk):
    """A heat map whose peaks are kept (sigmoid, max pool, comparison), sizes and offsets beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.heat, self.size, self.offset = (nn.Conv2d(16, width, 1) for width in (CLASSES, 2, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f = self.levels(x)[0]
        heat = torch.sigmoid(self.heat(f))
        kept = heat * (F.max_pool2d(heat, 3, 1, 1) == heat).float()
        return kept, self.size(f), self.offset(f)


class Chosen(_Trunk):
    """The best five of all places: sigmoid, top k, gather."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.box = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.levels(x)[0]
        scores, places = torch.sigmoid(self.score(f)).flatten(1).topk(5, 1)
        boxes = self.box(f).flatten(2)
        return scores, boxes.gather(2, places[:, None].expand(-1, 4, -1))


DETECTORS: dict[str, type[nn.Module]] = {
    "plain": Plain, "yolo8": Yolo8, "yolo5": Yolo5, "ssd": Ssd, "centernet": CenterNet, "chosen": Chosen,
}


@functools.cache
def captured_detector(name: str) -> tuple[Captured, Tensor]:
    """The captured network and images [16, 3, 32, 32]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = DETECTORS[name]().eval(), torch.randn(16, 3, SIDE, SIDE)
    return capture(model, images[:1]), images
