"""The tables of docs/results.md from recorded cells; words stand outside the marks, and rendering leaves them alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from bench_docs import markdown
from bench_rows import SUBJECT_TITLES
from reproduce_papers import BESIDE, FLOAT, SOURCES, TITLES, published
from reproduce_plan import BITS, NETWORKS, RANKED_AT, RANKING, Group, Line
from reproduce_summary import Records, Summary, best_lines, best_verdict, judge, ranking, summarize

METHOD_TITLES = {
    "nearest": "nearest", "lsq": "LSQ", "adaround": "AdaRound", "brecq": "BRECQ", "qdrop": "QDrop",
    "pdquant": "PD-Quant", "captq": "CaPTQ random", "captq-smooth": "CaPTQ smooth",
    "mse": "MSE ranges", "minmax": "min-max ranges", "zeroq": "ZeroQ", "zeroq-qdrop": "QDrop on ZeroQ's images",
    "gdfq": "GDFQ", "fdda-f8l8-small": "FDDA F8L8", "dmbq-small": "DMBQ",
}
COLUMNS = ("method", "bits", "edits", "top-1 of the artifact: mean ± deviation", "min – max", "seeds", "loss to float",
           "undecided", "kept nearest", "calibration, CPU s", "the paper, ImageNet", "required", "")
BEST_COLUMNS = ("network", "bits", "best recipe", "edits", "top-1", "loss to float", "calibration, CPU s", "next best",
                "required", "")
_DASH = "–"


def tables(
    groups: Sequence[Group], records: Records, code: str, names: Collection[str] | None = None
) -> dict[str, str]:
    """Tables of docs/results.md by the names of their marks.

    Args:
        groups: the whole plan.
        code: hash of the sources as they are now.
        names: of the groups that are wanted; None for all, and for where everything was measured.
    """
    shown = {"environment": environment(records, code)} if names is None else {}
    for group in groups:
        if names is not None and group.name not in names:
            continue
        shown[group.name] = {"lines": lines_view, "order": order_view, "best": best_view}[group.view](
            group, groups, records
        )
    return shown


def lines_view(group: Group, groups: Sequence[Group], records: Records) -> str:
    """A table for each network, the command above and the sources of other people's figures below."""
    parts = [_command(group)]
    for subject in dict.fromkeys(line.subject for line in group.lines):
        summaries = [summarize(line, records) for line in group.lines if line.subject == subject]
        parts.append(f"**{_subject_title(subject, summaries)}**")
        parts.append(markdown(COLUMNS, [_row(summary, records) for summary in summaries]))
    summaries = [summarize(line, records) for line in group.lines]
    parts.append(_proof(summaries))
    parts += [text for text in (_places(summaries), _last_epochs(summaries), _failures(group, records),
                                _legend(group)) if text]
    return "\n\n".join(parts)


def order_view(group: Group, groups: Sequence[Group], records: Records) -> str:
    """The same, and how the methods rank."""
    rows = []
    for subject, bits in RANKED_AT:
        found = [summarize(line, records) for method in RANKING for line in group.lines
                 if (line.subject, line.bits, line.method) == (subject, bits, method)]
        steps = ranking(found) if len(found) == len(RANKING) else None
        title = f"{SUBJECT_TITLES[subject]} {bits.upper()}"
        if steps is None:
            rows.append((title, " <= ".join(RANKING), _DASH, "not measured"))
        for step in steps or ():
            rows.append((title, f"{step.worse} <= {step.better}", f"{step.gain:+.2f} ± {step.noise:.2f}", step.word))
    ranked = markdown(("where", "ranking", "gain of the mean, points", ""), rows)
    return f"{lines_view(group, groups, records)}\n\n{ranked}"


def best_view(group: Group, groups: Sequence[Group], records: Records) -> str:
    """The winner of every network and bit width among the complete lines of all groups."""
    rows, found = [], best_lines(groups, records)
    for subject in NETWORKS:
        for bits in BITS:
            summaries = found.get((subject, bits))
            title = (SUBJECT_TITLES[subject], bits.upper())
            if not summaries:
                rows.append((*title, "not measured", *[_DASH] * (len(BEST_COLUMNS) - 3)))
                continue
            winner, verdict = summaries[0], best_verdict((subject, bits), summaries[0])
            after = f"{summaries[1].line.recipe} {summaries[1].mean:.2f}" if len(summaries) > 1 else _DASH
            limit = (verdict.limit, verdict.word) if verdict else ("", "")
            rows.append((*title, f"`{winner.line.recipe}`", _edits(winner.line), _mean(winner), _loss(winner),
                         f"{winner.seconds:.0f}", after, *limit))
    return markdown(BEST_COLUMNS, rows)


def environment(records: Records, code: str) -> str:
    """Where the cells were measured, and by which state of the code."""
    good = [record for record in records.values() if record["error"] is None]
    if not good:
        return "Not measured yet."
    places = Counter(
        (record["machine"]["cpu"], str(record["machine"]["cores"]),
         ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
         f"{record['code'][:12]}{' (as it is now)' if record['code'] == code else ''}")
        for record in good
    )
    rows = [(str(count), *place) for place, count in places.most_common()]
    return markdown(("cells", "CPU", "cores", "versions", "code"), rows)


def _row(summary: Summary, records: Records) -> tuple[str, ...]:
    line = summary.line
    verdicts = judge(line.required, summary, records) if line.required else []
    limits = "; ".join([verdict.limit for verdict in verdicts] + ([line.note] if line.note else []))
    paper = published(line.published_as, line.bits, line.subject)
    first = (METHOD_TITLES.get(line.method, line.method), line.bits.upper(), _edits(line))
    last = (f"{paper[0]:.2f} ({paper[1]})" if paper else _DASH, limits, "; ".join(v.word for v in verdicts))
    if not summary.top1:
        return (*first, "failed" if summary.errors else "not measured", *[_DASH] * 6, *last)
    return (
        *first, _mean(summary), f"{min(summary.top1):.2f} – {max(summary.top1):.2f}",
        f"{len(summary.top1)} of {len(line.seeds)}", _loss(summary),
        _DASH if summary.undecided is None else f"{100 * summary.undecided:.2f} %",
        f"{summary.kept_nearest} of {summary.units}" if summary.units else _DASH, f"{summary.seconds:.0f}", *last,
    )


def _mean(summary: Summary) -> str:
    return f"{summary.mean:.2f} ± {summary.deviation:.2f}"


def _loss(summary: Summary) -> str:
    return f"{summary.float_top1 - summary.mean:.2f}"


def _edits(line: Line) -> str:
    drawn = {"pool": ["images of the pool"], None: ["no data"]}.get(line.images, [])
    return ", ".join([*(f"`{edit}`" for edit in line.sets), *drawn]) or _DASH


def _subject_title(subject: str, summaries: Sequence[Summary]) -> str:
    known = [summary.float_top1 for summary in summaries if summary.float_top1 is not None]
    text = f"{SUBJECT_TITLES[subject]}" + (f", float {known[0]:.2f} %" if known else "")
    network = BESIDE.get(subject)
    return f"{text}; the papers' figures are of {TITLES[network]}, float {FLOAT[network]:.2f} %" if network else text


def _command(group: Group) -> str:
    cells = len({cell for line in group.lines for cell in line.cells})
    return f"`python tools/reproduce.py --groups {group.name}` ({cells} cells)"


def _proof(summaries: Sequence[Summary]) -> str:
    cells, compared = sum(len(s.top1) for s in summaries), sum(s.compared for s in summaries)
    if not cells:
        return "No cell was measured yet."
    return (f"{sum(s.differing for s in summaries)} of {compared:,} codes and logits of {cells} artifacts differ from "
            "the integer arithmetic at the deployed level.")


def _places(summaries: Sequence[Summary]) -> str:
    found = sorted(set().union(*(summary.places for summary in summaries)))
    return f"Measured on: {'; '.join(found)}." if found else ""


def _last_epochs(summaries: Sequence[Summary]) -> str:
    """What networks, generators and images that were trained as a whole had reached when they were done."""
    lines = []
    for summary in summaries:
        for what, epoch in summary.last_epoch.items():
            values = ", ".join(f"{name} {value:.3g}" for name, value in epoch["measured"].items())
            title = METHOD_TITLES.get(summary.line.method, summary.line.method)
            lines.append(f"- {title} {summary.line.bits.upper()}, {_edits(summary.line)}; {what}, epoch "
                         f"{epoch['number']}: {values}")
    return "\n".join(["The last epochs, of the first seed:", "", *lines]) if lines else ""


def _failures(group: Group, records: Records) -> str:
    """A line for each error, with the first cell that met it."""
    failed: dict[str, list[str]] = {}
    for cell in dict.fromkeys(cell for line in group.lines for cell in line.cells):
        if cell in records and records[cell]["error"] is not None:
            failed.setdefault(" ".join(records[cell]["error"].split()), []).append(cell.id)
    return "\n".join(f"- {len(ids)} failed (`{ids[0]}`): {error}" for error, ids in failed.items())


def _legend(group: Group) -> str:
    found = (published(line.published_as, line.bits, line.subject) for line in group.lines)
    used = dict.fromkeys(paper[1] for paper in found if paper)
    return "Figures of the papers: " + "; ".join(f"*{key}*: {SOURCES[key]}" for key in used) + "." if used else ""
