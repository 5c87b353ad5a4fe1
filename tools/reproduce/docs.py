"""The tables of docs/results.md, a summary of docs/results.json; words stand outside the marks and are left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.bench.rows import SUBJECT_TITLES
from tools.documents import markdown
from tools.reproduce.content import METHOD_TITLES, Content, differing, places
from tools.reproduce.plan import BITS, METHODS, NETWORKS, Group

NOT_MEASURED = "Not measured yet."
_DASH = "–"
LINE_COLUMNS = ("method", "bits", "what differs", "top-1, %", "CPU s", "for comparison")
BEST_COLUMNS = ("network", "bits", "recipe", "edits", "top-1, %", "next")
Line = Mapping[str, Any]


def tables(groups: Sequence[Group], content: Content) -> dict[str, str]:
    """Tables of docs/results.md by the names of their marks.

    Args:
        groups: the whole plan.
        content: what docs/results.json holds; a group that it does not have is not measured yet.
    """
    views = {"lines": lines_view, "order": order_view, "pairs": pairs_view, "methods": methods_view}
    shown = {"environment": environment(content)}
    for group in groups:
        if group.view == "best":
            shown[group.name] = best_view(content)
        else:
            found = content.get("groups", {}).get(group.name)
            shown[group.name] = views[group.view](found) if found else NOT_MEASURED
    return shown


def lines_view(group: Content) -> str:
    """A row for each line, a table for each network; what all of its rows share stands in the title."""
    parts = []
    for network, about in group["networks"].items():
        rows = [line_row(line) for line in group["lines"] if line["network"] == network]
        shared = [rows[0][column] for column in (0, 1) if len(rows) > 1 and len({row[column] for row in rows}) == 1]
        kept = [column for column in range(len(LINE_COLUMNS))
                if any(row[column] for row in rows) and not (column < 2 and rows[0][column] in shared)]
        cells = [[row[column] for column in kept] for row in rows]
        table = markdown([LINE_COLUMNS[column] for column in kept], cells, tight=True)
        parts.append(f"{_title(about, *shared)}\n\n{table}")
    return _with_remarks(group, parts)


def pairs_view(group: Content) -> str:
    """A row for each line that has another beside it."""
    lines = [line for line in group["lines"] if "beside" in line]
    other = ", ".join(dict.fromkeys(line["beside"]["line"] for line in lines))
    rows = [(SUBJECT_TITLES[line["network"]], method_title(line["recipe"]), line["bits"],
             _figure(line["beside"]["top1"]), _cell(line)) for line in lines]
    return _with_remarks(group, [markdown(("network", "method", "bits", other, "top-1, %"), rows)])


def line_row(line: Line) -> tuple[str, ...]:
    """One row; a line that was not measured says so."""
    first = (method_title(line["recipe"]), line["bits"], line["note"])
    if "top1" not in line:
        return (*first, line["state"], _DASH, beside(line))
    return (*first, top1(line), _seconds(line["cpu_s"]), beside(line))


def order_view(group: Content) -> str:
    """Methods by bits, a table for each network, and how the methods rank."""
    parts = []
    for network, about in group["networks"].items():
        lines = {(method_of(line["recipe"]), line["bits"]): line
                 for line in group["lines"] if line["network"] == network}
        rows = [(METHOD_TITLES[method], *(_cell(lines.get((method, bits.upper()))) for bits in BITS),
                 _range([lines[method, bits.upper()] for bits in BITS if (method, bits.upper()) in lines], "cpu_s"))
                for method in METHODS]
        parts.append(f"{_title(about)}\n\n{markdown(('top-1, %', *map(str.upper, BITS), 'CPU s'), rows)}")
    ranked = [(f"{SUBJECT_TITLES[step['network']]} {step['bits']}",
               f"{METHOD_TITLES[step['better']]} over {METHOD_TITLES[step['worse']]}",
               f"{step['gain']:+.2f} ± {step['noise']:.2f}")
              for step in group["ranking"] if abs(step["gain"]) > step["noise"]]
    known = bool(group["ranking"])
    parts.append(markdown(("where", "", "gain, points"), ranked) if known else "The ranking is not measured yet.")
    return _with_remarks(group, parts)


def methods_view(group: Content) -> str:
    """Methods by bits, a table for each network; of each line and column only what was measured."""
    parts = []
    for network, about in group["networks"].items():
        lines = {(line["recipe"].rpartition("_")[0], line["bits"]): line
                 for line in group["lines"] if line["network"] == network and "top1" in line}
        methods, bits = (list(dict.fromkeys(keys)) for keys in (
            [method for method, _ in lines], [line["bits"] for line in group["lines"]]))
        bits = [each for each in bits if any(each == measured for _, measured in lines)]
        rows = [(METHOD_TITLES.get(method, method), *(_cell(lines.get((method, each))) for each in bits),
                 _range([lines[place] for place in lines if place[0] == method], "cpu_s")) for method in methods]
        if rows:
            table = markdown((f"{about.get('measure', 'top-1')}, %", *bits, "CPU s"), rows)
            parts.append(f"{_title(about)}\n\n{table}")
    return _with_remarks(group, parts)


def best_view(content: Content) -> str:
    """The line with the highest mean of every network and bit width, among all groups, and the next one."""
    rows, found = [], best_lines(content)
    for network in NETWORKS:
        for bits in BITS:
            title, lines = (SUBJECT_TITLES[network], bits.upper()), found.get((network, bits.upper()))
            if not lines:
                rows.append((*title, "not measured", *[_DASH] * (len(BEST_COLUMNS) - 3)))
                continue
            first, after = lines[0], f"{lines[1]['recipe']} {lines[1]['top1']:.2f}" if len(lines) > 1 else _DASH
            rows.append((*title, f"`{first['recipe']}`", edits(first), top1(first), after))
    return markdown(BEST_COLUMNS, rows)


def best_lines(content: Content) -> dict[tuple[str, str], list[Line]]:
    """Lines of which all seeds were measured by (network, bits), the best mean first, each experiment once."""
    once = {(line["network"], line["recipe"], *line["edits"], line["images"], line["seeds"]): line
            for group in content.get("groups", {}).values() for line in group["lines"]
            if line["bits"] and line["measured"] == line["seeds"]}
    found: dict[tuple[str, str], list[Line]] = {}
    for line in once.values():
        found.setdefault((line["network"], line["bits"]), []).append(line)
    return {place: sorted(lines, key=lambda line: -line["top1"]) for place, lines in found.items()}


def environment(content: Content) -> str:
    """Where each group was measured, by which states of the code, and how many codes differ in all groups."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, group in content.get("groups", {}).items():
        found.setdefault(tuple(places(group)), []).append(name)
    rows = []
    for known, names in found.items():
        machines: dict[str, list[str]] = {}
        for place in known:
            machine, _, code = place.rpartition(", code ")
            machines.setdefault(machine, []).append(code)
        rows += [(", ".join(names), machine, ", ".join(codes)) for machine, codes in machines.items()]
    if not rows:
        return NOT_MEASURED
    count = sum(differing(group) for group in content["groups"].values())
    table = markdown(("groups", "measured on", "code"), rows)
    return f"{table}\n\nCodes that differ from the integer arithmetic, all groups: {count:,}."


def method_of(recipe: str) -> str:
    """`qdrop` of `qdrop_w4a4`."""
    return recipe.rpartition("_")[0]


def method_title(recipe: str) -> str:
    """What the method of a recipe is called in a table."""
    return METHOD_TITLES.get(method_of(recipe), method_of(recipe))


def top1(line: Line) -> str:
    """The mean, with the deviation over seeds where there are several."""
    return f"{line['top1']:.2f}" + (f" ±{line['deviation']:.2f}" if line["measured"] > 1 else "")


def edits(line: Line) -> str:
    """What `--set` changes, and where the images come from if not from `calib`."""
    drawn = {"pool": ["images of the pool"], "none": ["no data"]}.get(line["images"], [])
    return ", ".join([*(f"`{edit}`" for edit in line["edits"]), *drawn]) or _DASH


def beside(line: Line) -> str:
    """Figures for comparison that were measured on the same network and images; the papers' stand in the JSON."""
    parts = []
    if "authors_code" in line:
        parts.append(f"authors' code {line['authors_code']:.1f}")
    if line.get("beside", {}).get("top1") is not None:
        parts.append(f"{line['beside']['line']} {line['beside']['top1']:.2f}")
    return "; ".join(parts)


def _cell(line: Line | None) -> str:
    if line is None or "top1" not in line:
        return line["state"] if line else _DASH
    return f"{line['top1']:.2f}"


def _range(lines: Sequence[Line], key: str) -> str:
    values = sorted(line[key] for line in lines if line.get(key) is not None)
    if not values:
        return _DASH
    return "–".join(dict.fromkeys((_seconds(values[0]), _seconds(values[-1]))))


def _seconds(value: float | None) -> str:
    return _DASH if value is None else f"{value:.0f}"


def _figure(value: float | None) -> str:
    return _DASH if value is None else f"{value:.2f}"


def _title(about: Content, *shared: str) -> str:
    known = "" if about["float"] is None else f" (float {about['float']:.2f} %)"
    return f"**{', '.join([about['title'], *shared])}**{known}"


def _with_remarks(group: Content, parts: Sequence[str]) -> str:
    """The tables, and below them what failed and where codes differ; nothing where all is well."""
    said = [] if any("top1" in line for line in group["lines"]) else [NOT_MEASURED]
    if count := differing(group):
        said.append(f"{count:,} codes differ.")
    failed: dict[str, list[Content]] = {}
    for line in group["lines"]:
        if "failed" in line:
            failed.setdefault(line["failed"]["error"], []).append(line["failed"])
    told = [f"- {sum(each['cells'] for each in known)} failed (`{known[0]['first']}`): {error}"
            for error, known in failed.items()]
    return "\n\n".join([*parts, *said, *told])
