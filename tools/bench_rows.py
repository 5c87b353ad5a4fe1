"""The table by which the project is judged: every row with its limit, what was measured, and whether it was met.

Rows are read from the results that `bench.py` keeps in its JSON file; a row whose section has not run says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FLOAT_FILE_KB = 1081
SIZE_LIMITS_KB = {"qdrop_w8a8": 285, "qdrop_w4a4": 152, "qdrop_w2a2": 86}
RESNET, DS_CNN = "resnet20", "ds_cnn"
SUBJECT_TITLES = {RESNET: "ResNet-20", DS_CNN: "DS-CNN", "resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2"}
EIGHT_BITS = ("qdrop_w8a8", "mse_w8a8")
# Contenders of the latency section.
FLOAT, STATIC_DEFAULT, STATIC_BEST = "float", "quantize_static S8S8 (default)", "quantize_static U8S8 per channel"
W8A8, W4A8, W4A4 = "W8A8", "W4A8", "W4A4"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        section: of the bench that measures it.
        what, limit, measured: for people.
        met: None where it was not measured.
    """

    section: str
    what: str
    limit: str
    measured: str = "not measured"
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """`met`, `missed` or a dash."""
        return "–" if self.met is None else "met" if self.met else "missed"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judged_rows(results: Mapping[str, Any]) -> list[Row]:
    """Every row of the table, in its order.

    Args:
        results: what `bench.json` holds: `builds`, `latency`, `calibration`, `compat`; each may be missing.
    """
    builds = results.get("builds", {})
    latency = results.get("latency", {})
    return [
        *_top1(builds),
        *_parity(builds),
        *_size(builds),
        *_compat(results.get("compat")),
        *_latency(latency),
        _calibration(results.get("calibration")),
    ]


def _of(builds: Mapping[str, Any], subject: str, *recipes: str) -> list[Mapping[str, Any]]:
    """Builds of a subject, of all seeds, optionally of some recipes only."""
    return [b for b in builds.values() if b["subject"] == subject and (not recipes or b["recipe"] in recipes)]


def _top1(builds: Mapping[str, Any]) -> list[Row]:
    rows = []
    for subject, recipe, least in ((RESNET, "qdrop_w4a4", 87.3), (RESNET, "qdrop_w2a2", 70.5),
                                   (DS_CNN, "qdrop_w4a4", 86.0)):
        what, limit = f"{SUBJECT_TITLES[subject]} {recipe}: top-1 of the artifact", f">= {least} %, reference the same"
        found = _of(builds, subject, recipe)
        accuracies = [build["accuracy"] for build in found]
        met = all(a["artifact"] >= least and a["artifact"] == a["reference"] for a in accuracies) if found else None
        rows.append(_row("accuracy", what, limit, _accuracies(found), met))
    for subject in (RESNET, DS_CNN):
        for recipe in EIGHT_BITS:
            what = f"{SUBJECT_TITLES[subject]} {recipe}: top-1 of the artifact"
            found = _of(builds, subject, recipe)
            met = all(round(b["accuracy"]["float"] - b["accuracy"]["artifact"], 4) <= 0.2 for b in found)
            rows.append(_row("accuracy", what, "at most 0.2 points below float", _accuracies(found),
                             met if found else None))
    return rows


def _accuracies(builds: list[Mapping[str, Any]]) -> str:
    texts = []
    for build in builds:
        accuracy = build["accuracy"]
        same = "" if accuracy["artifact"] == accuracy["reference"] else f", reference {accuracy['reference']:.2f}"
        texts.append(f"{accuracy['artifact']:.2f} (float {accuracy['float']:.2f}{same})")
    return "; ".join(texts)


def _parity(builds: Mapping[str, Any]) -> list[Row]:
    rows = []
    for subject in (RESNET, DS_CNN):
        found = _of(builds, subject)
        levels = [level for build in found for level in build["levels"]]
        differing = sum(level["differing"] for level in levels)
        compared = sum(level["compared"] for level in levels)
        logits = sum(level["logits_differing"] for level in levels)
        where = sorted({level["level"] for level in levels if level["differing"] or level["logits_differing"]})
        text = (f"{differing:,} of {compared:,} codes and {logits:,} logits, {len(found)} builds at "
                f"{len({level['level'] for level in levels})} levels" + (f"; at {', '.join(where)}" if where else ""))
        rows.append(_row("parity", f"{SUBJECT_TITLES[subject]}: codes that differ from the integer arithmetic",
                         "0, all bit widths, all four levels", text if found else "",
                         differing + logits == 0 and compared > 0 if found else None))
    for subject in (RESNET, DS_CNN):
        found = _of(builds, subject)
        floating = sum(build["integer_ops"]["float"] for build in found)
        integer = sum(build["integer_ops"]["integer"] for build in found)
        reasons = sorted({reason for build in found for reason in build["integer_ops"]["reasons"].values()})
        text = f"{integer} in integers, {floating} in float" + (f": {'; '.join(reasons)}" if reasons else "")
        rows.append(_row("parity", f"{SUBJECT_TITLES[subject]}: operators in integers", "all", text if found else "",
                         floating == 0 if found else None))
    return rows


def _size(builds: Mapping[str, Any]) -> list[Row]:
    rows = []
    for recipe, limit in SIZE_LIMITS_KB.items():
        found = _of(builds, RESNET, recipe)
        largest = max((build["model_bytes"] for build in found), default=0)
        rows.append(_row("size", f"ResNet-20 {recipe}: model.onnx (float file {FLOAT_FILE_KB:,} kB)", f"<= {limit} kB",
                         f"{largest / 1000:.1f} kB" if found else "", largest <= 1000 * limit if found else None))
    return rows


def _compat(compat: Mapping[str, Any] | None) -> list[Row]:
    what = "The same file on ONNX Runtime 1.17.3, 1.22.1 and the newest (tools/compat.py)"
    if not compat:
        return [Row("compat", what, "the same codes")]
    differing = sum(entry["differing"] for entry in compat["entries"])
    versions = sorted({entry["version"] for entry in compat["entries"]})
    text = f"{differing} differing codes and logits on {', '.join(versions)}"
    return [Row("compat", what, "the same codes", text, bool(compat["passed"]) and len(versions) >= 3)]


def _latency(latency: Mapping[str, Any]) -> list[Row]:
    rows = []
    for subject in (RESNET, DS_CNN):
        nets = latency.get(subject, {}).get("contenders", {})
        title = SUBJECT_TITLES[subject]
        rows.append(_ratio_row(f"{title} W8A8 over quantize_static at its best", nets, STATIC_BEST, W8A8, 1.0))
        rows.append(_ratio_row(f"{title} W4A4 over W8A8", nets, W8A8, W4A4, 1 / 1.08))
    for subject, least in (("resnet18", 3.2), ("mobilenet_v2", 1.9)):
        nets = latency.get(subject, {}).get("contenders", {})
        rows.append(_ratio_row(f"{SUBJECT_TITLES[subject]} W8A8 over float", nets, FLOAT, W8A8, least))
    return rows


def _ratio_row(what: str, contenders: Mapping[str, Any], base: str, name: str, least: float) -> Row:
    what, limit = f"{what}: speed, one thread, batch 1", f">= {least:.2f}x"
    ratio = contenders.get(name, {}).get("speed_over", {}).get(base)
    if ratio is None:
        return Row("latency", what, limit)
    low, median, high = ratio
    return Row("latency", what, limit, f"{median:.2f}x [{low:.2f}, {high:.2f}]", round(median, 3) >= round(least, 3))


def _calibration(calibration: Mapping[str, Any] | None) -> Row:
    what, limit = "ResNet-20 W4A4: CPU time of calibration, literal loop over ours, 1,000 steps a unit", ">= 3x"
    if not calibration:
        return Row("calibration", what, limit)
    ratio = calibration["ratio"]
    text = f"{ratio:.2f}x ({calibration['literal_s']:.0f} s / {calibration['ours_s']:.0f} s, {calibration['how']})"
    return Row("calibration", what, limit, text, ratio >= 3)


def _row(section: str, what: str, limit: str, measured: str, met: bool | None) -> Row:
    return Row(section, what, limit) if met is None else Row(section, what, limit, measured, met)
