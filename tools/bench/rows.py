"""What a user asks of the benches, as rows of words and numbers, and the names that all benches share.

Rows are read from the results that `bench.py` keeps in its JSON file; a row whose section has not run says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

RESNET, DS_CNN = "resnet20", "ds_cnn"
EFFICIENTNET, CELLS = "efficientnet_lite0", "cell_detector"
SUBJECT_TITLES = {
    RESNET: "ResNet-20", DS_CNN: "DS-CNN", "resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2",
    EFFICIENTNET: "EfficientNet-Lite0", CELLS: "Cell detector",
}
# Contenders of the latency section.
FLOAT, STATIC_DEFAULT, STATIC_BEST = "float", "quantize_static S8S8 (default)", "quantize_static U8S8 per channel"
W8A8, W4A8, W4A4 = "W8A8", "W4A8", "W4A4"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        section: of the bench that measures it.
        what, measured: for people.
    """

    section: str
    what: str
    measured: str = NOT_MEASURED

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summary_rows(results: Mapping[str, Any]) -> list[Row]:
    """Every row of the table, in its order.

    Args:
        results: what `bench.json` holds: `builds`, `latency`, `calibration`, `compat`; each may be missing.
    """
    return [
        *_parity(results.get("builds", {})),
        _compat(results.get("compat")),
        *_latency(results.get("latency", {})),
        _calibration(results.get("calibration")),
    ]


def _parity(builds: Mapping[str, Any]) -> list[Row]:
    rows = []
    by_subject = {subject: [build for build in builds.values() if build["subject"] == subject]
                  for subject in (RESNET, DS_CNN)}
    for subject, found in by_subject.items():
        levels = [level for build in found for level in build["levels"]]
        differing = sum(level["differing"] for level in levels)
        compared = sum(level["compared"] for level in levels)
        logits = sum(level["logits_differing"] for level in levels)
        where = sorted({level["level"] for level in levels if level["differing"] or level["logits_differing"]})
        text = (f"{differing:,} of {compared:,} codes and {logits:,} logits, {len(found)} builds at "
                f"{len({level['level'] for level in levels})} levels" + (f"; at {', '.join(where)}" if where else ""))
        rows.append(Row("parity", f"{SUBJECT_TITLES[subject]}: codes that differ from the integer arithmetic",
                        text if found else NOT_MEASURED))
    for subject, found in by_subject.items():
        floating = sum(build["integer_ops"]["float"] for build in found)
        integer = sum(build["integer_ops"]["integer"] for build in found)
        reasons = sorted({reason for build in found for reason in build["integer_ops"]["reasons"].values()})
        text = f"{integer} in integers, {floating} in float" + (f": {'; '.join(reasons)}" if reasons else "")
        rows.append(Row("parity", f"{SUBJECT_TITLES[subject]}: operators", text if found else NOT_MEASURED))
    return rows


def _compat(compat: Mapping[str, Any] | None) -> Row:
    what = "the same file on several versions of ONNX Runtime (tools/check/compat.py)"
    if not compat:
        return Row("compat", what)
    differing = sum(entry["differing"] for entry in compat["entries"])
    versions = sorted({entry["version"] for entry in compat["entries"]})
    failed = "" if compat["passed"] else "; not every artifact ran everywhere with the same codes"
    return Row("compat", what, f"{differing} differing codes and logits on {', '.join(versions)}{failed}")


def _latency(latency: Mapping[str, Any]) -> list[Row]:
    rows = []
    for subject in (RESNET, DS_CNN):
        nets = latency.get(subject, {}).get("contenders", {})
        title = SUBJECT_TITLES[subject]
        rows.append(_ratio_row(f"{title} W8A8 over quantize_static at its best", nets, STATIC_BEST, W8A8))
        rows.append(_ratio_row(f"{title} W4A4 over W8A8", nets, W8A8, W4A4))
    for subject in ("resnet18", "mobilenet_v2"):
        nets = latency.get(subject, {}).get("contenders", {})
        rows.append(_ratio_row(f"{SUBJECT_TITLES[subject]} W8A8 over float", nets, FLOAT, W8A8))
    return rows


def _ratio_row(what: str, contenders: Mapping[str, Any], base: str, name: str) -> Row:
    ratio = contenders.get(name, {}).get("speed_over", {}).get(base)
    if ratio is None:
        return Row("latency", f"{what}: speed")
    low, median, high = ratio
    return Row("latency", f"{what}: speed", f"{median:.2f}x [{low:.2f}, {high:.2f}]")


def _calibration(calibration: Mapping[str, Any] | None) -> Row:
    what = "ResNet-20 W4A4: CPU time of calibration, literal loop over ours, 1,000 steps a unit"
    if not calibration:
        return Row("calibration", what)
    seconds = f"{calibration['literal_s']:.0f} s / {calibration['ours_s']:.0f} s"
    where = f"{calibration['processor']}: {seconds}, {calibration['how']}"
    return Row("calibration", what, f"{calibration['ratio']:.2f}x ({where})")
