"""A run as one page that needs nothing else: verdicts, plots, all figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from bench import text
from bench.figures import Histogram
from bench.limits import Verdict, judge
from bench.peers import PEERS
from bench.results import FLOOR, KIFA, Measurement, Run
from bench.svg import Point, plot

# A tenth, a hundredth, a thousandth of the entries get as much room as the ones before them.
PERCENT_OF_RARITY: dict[float, str] = {1: "0", 2: "50", 10: "90", 100: "99", 1_000: "99.9"}
STEPS_PER_TEN = 12

STYLE = """
:root{color-scheme:light dark;--ink:#16202a;--soft:#5c6b7a;--line:#e1e6eb;--page:#fbfcfd;--card:#fff;
--kifa:#0b62c4;--floor:#7d8996;--sqlite:#c2571a;--lmdb:#8a4fbf;--rocksdb:#b08900;--leveldb:#1f8a5b;--plain:#c23b6b;
--clients:#0b8fa8;--good:#12744a;--bad:#b3261e;--doubt:#8a6100}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa8b5;--line:#2b3640;--page:#11171d;--card:#182028;
--kifa:#5aa5ff;--floor:#8b98a5;--sqlite:#f0935a;--lmdb:#c39af0;--rocksdb:#e0bd4a;--leveldb:#5fcf9c;--plain:#f07fa6;
--clients:#4fc8de;--good:#5fcf9c;--bad:#ff8a80;--doubt:#e0bd4a}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:84rem;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.5rem 0 .75rem}h3{font-size:.95rem;margin:0 0 .25rem}
p,dl{margin:.25rem 0}.soft{color:var(--soft)}
.about{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;font-size:.88rem;margin-top:.75rem}
.about dt{color:var(--soft)}.about dd{margin:0;overflow-wrap:anywhere}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(30rem,100%),1fr));gap:1rem}
figure{margin:0;padding:1rem;background:var(--card);border:1px solid var(--line);border-radius:8px}
figcaption{font-size:.82rem;color:var(--soft);margin-top:.4rem}
svg{width:100%;height:auto;display:block;font:11px system-ui,sans-serif}
.grid{stroke:var(--line)}.axis{stroke:var(--soft)}.tick,.title{fill:var(--soft)}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round}.dot{stroke:var(--card);stroke-width:1}
.line.s-kifa{stroke-width:2.8}.line.s-floor{stroke-dasharray:5 4}.name{font-weight:600}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .7rem;text-align:left;white-space:nowrap}
td.wide{white-space:normal;min-width:16rem}
th{font-weight:600;color:var(--soft);border-bottom:1px solid var(--line)}
tbody tr+tr td{border-top:1px solid var(--line)}tbody tr.more td{border-top:0}
.n{text-align:right}.met{color:var(--good);font-weight:600}.missed{color:var(--bad);font-weight:600}
.doubt{color:var(--doubt)}.kifa{font-weight:600}
.tally{display:flex;gap:2rem;flex-wrap:wrap;margin:.5rem 0 1rem}.tally b{font-size:1.5rem;display:block;line-height:1.2}
.warn{border-left:3px solid var(--doubt);padding:.4rem .9rem;margin:1rem 0;background:var(--card);font-size:.88rem}
code{font:.86em ui-monospace,monospace}
"""
RIGHT = {"wanted", "measured", "median", "of floor", "of best peer", *text.LATENCY_HEADINGS[2:]}
COLOURED = (KIFA, FLOOR, *PEERS, "clients")


def page(run: Run) -> str:
    """Return the page."""
    colours = "".join(
        f".line.s-{name}{{stroke:var(--{name})}}.dot.s-{name},.name.s-{name}{{fill:var(--{name})}}"
        for name in COLOURED
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Kifa beside its floor and its peers</title><style>{STYLE}{colours}</style></head><body>"
        f"{_head(run)}{_limits(run)}{_plots(run)}{_figures(run)}{_latencies(run)}"
        "</body></html>\n"
    )


def _head(run: Run) -> str:
    about = run.header
    peers = ", ".join(f"{name} {version}" for name, version in about["peers"].items()) or "none"
    rows = {
        "Kifa": f"{about['kifa']}, Python {about['python']}, {about['date']}",
        "Machine": f"{about['cpu']}, {about['cores']} cores, {about['memory_mib']:,} MiB, {about['kernel']}",
        "Disk": f"{about['file_system']} ({about['mount_options']}) on {about['device']}",
        "Peers": peers,
        "Command": f"<code>{escape(about['command'])}</code>",
    }
    items = "".join(
        f"<dt>{name}</dt><dd>{value if name == 'Command' else escape(value)}</dd>"
        for name, value in rows.items()
    )
    notes = "".join(f'<p class="warn">{_marked(note)}</p>' for note in text.notes(run))
    return (
        "<h1>Kifa beside its floor and its peers</h1>"
        '<p class="soft">The floor is the bare system calls of the same shape in a C loop, measured in the same'
        " rounds on the same file system. Figures are medians of rounds; ratios are made round by round.</p>"
        f'<dl class="about">{items}</dl>{notes}'
    )


def _limits(run: Run) -> str:
    verdicts = [verdict for verdict in judge(run) if verdict.met is not None]
    if not verdicts:
        return ""
    met = sum(verdict.met is True for verdict in verdicts)
    body = [_limit_row(verdict) for verdict in verdicts]
    tally = (
        f'<div class="tally"><div><b class="met">{met}</b>met</div>'
        f'<div><b class="missed">{len(verdicts) - met}</b>missed</div></div>'
    )
    headings = ("limit", "wanted", "measured", "unit", "verdict")
    return f"<h2>Limits to reach</h2>{tally}{_table(headings, body)}"


def _limit_row(verdict: Verdict) -> str:
    name, wanted, measured, unit, _ = text.limit_row(verdict)
    word = text.VERDICTS[verdict.met]
    remarks = [verdict.condition, "rounds disagree" if verdict.is_worthless else ""]
    remark = "; ".join(filter(None, remarks))
    return (
        f'<tr><td class="wide">{_marked(name)}</td><td class="n">{escape(wanted)}</td><td class="n">{measured}</td>'
        f'<td>{_marked(unit)}</td><td><span class="{word}">{word}</span>'
        f'{f""" <span class="doubt">{escape(remark)}</span>""" if remark else ""}</td></tr>'
    )


def _plots(run: Run) -> str:
    figures = "".join(filter(None, (draw(run) for draw in PLOTS)))
    return f'<h2>Plots</h2><div class="plots">{figures}</div>' if figures else ""


def _figure(title: str, caption: str, drawing: str) -> str:
    if not drawing:
        return ""
    return f"<figure><h3>{escape(title)}</h3>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def _lines_of(
    measurements: Iterable[Measurement], x_of: Callable[[Measurement], float]
) -> dict[str, list[Point]]:
    """Return for each subject a point (x, median) of every measurement that has it."""
    lines: dict[str, list[Point]] = {KIFA: []}
    for one in sorted(measurements, key=x_of):
        for name in one.series:
            value = one.median_of(name)
            if value:
                lines.setdefault(name, []).append((x_of(one), value))
    return {name: points for name, points in lines.items() if len(points) > 1 and name in COLOURED}


def _places_on_x(lines: Mapping[str, Sequence[Point]]) -> list[float]:
    return sorted({x for points in lines.values() for x, _ in points})


def _by_group(run: Run) -> str:
    found = [one for one in run.measurements if one.name.startswith("append_many/")]
    mode = found[0].parameters["mode"] if found else ""
    found += [
        one
        for one in run.measurements
        if found and one.name == f"append/{mode}/{found[0].parameters['size_bytes']}/1"
    ]
    lines = _lines_of(found, lambda one: float(one.parameters["group"]))
    title = "Throughput against the size of a group"
    return _figure(
        title,
        f"Entries of {found[0].parameters['size_bytes']} B, {mode}, one thread." if found else "",
        plot(
            lines,
            title=title,
            x_title="entries for each sync",
            y_title="entries/s",
            x_ticks=_places_on_x(lines),
        ),
    )


def _by_clients(run: Run) -> str:
    found = [one for one in run.measurements if one.name.startswith("threads/")]
    single = run.find("append/cautious/200/1")
    lines = _lines_of(
        [*found, *([single] if single else [])], lambda one: float(one.parameters["threads"])
    )
    clients = sorted(
        (float(one.parameters["clients"]), one.median_of() or 0.0)
        for one in run.measurements
        if "clients" in one.parameters and one.name.split("/")[1].isdigit()
    )
    alone = [one.median_of("one client") for one in run.measurements]
    clients[:0] = [(1.0, value) for value in alone if value][:1]
    if len(clients) > 1:
        lines["clients"] = clients
    title = "Throughput against senders"
    return _figure(
        title,
        "One entry of 200 B in flight for each sender, cautious. Lines by library: threads of one process; clients: "
        "acknowledged clients of the daemon. The floor is one sender.",
        plot(
            lines,
            title=title,
            x_title="senders",
            y_title="entries/s",
            x_ticks=_places_on_x(lines),
        ),
    )


def _distribution(name: str, title: str) -> Callable[[Run], str]:
    def draw(run: Run) -> str:
        one = run.find(name)
        if one is None or not one.latencies:
            return ""
        lines = {subject: percentiles(histogram) for subject, histogram in one.latencies.items()}
        return _figure(
            title,
            f"{one.what}: how long the fastest so many percent took at most.",
            plot(
                {KIFA: lines.pop(KIFA, []), **lines},
                title=title,
                x_title="percent of the entries",
                y_title="us",
                x_ticks=list(PERCENT_OF_RARITY),
                name_of_tick=PERCENT_OF_RARITY.__getitem__,
            ),
        )

    return draw


def percentiles(histogram: Histogram) -> list[Point]:
    """Return (rarity, latency in us): one entry in so many takes longer than that."""
    rarities = [10 ** (step / STEPS_PER_TEN) for step in range(3 * STEPS_PER_TEN + 1)]
    shown = [rarity for rarity in rarities if rarity <= histogram.count]
    return [(rarity, histogram.percentile_us(1 - 1 / rarity)) for rarity in shown]


def _by_size(prefix: str, title: str, caption: str) -> Callable[[Run], str]:
    def draw(run: Run) -> str:
        found = [one for one in run.measurements if one.name.startswith(prefix)]
        lines = _lines_of(found, lambda one: float(one.parameters["size_mib"]))
        drawing = plot(
            lines,
            title=title,
            x_title="MiB of entries in the store",
            y_title="ms",
            x_ticks=_places_on_x(lines),
        )
        return _figure(title, caption, drawing)

    return draw


PLOTS: Sequence[Callable[[Run], str]] = (
    _by_group,
    _by_clients,
    _distribution("append/cautious/200/1", "Latency of a single durable append"),
    _distribution("threads/32", "Latency with 32 threads"),
    _by_size(
        "recover/size/",
        "Cost of reopening after a kill",
        "Default settings. The floor reads the files of the log.",
    ),
    _by_size(
        "recover/compaction/",
        "Cost of compaction",
        "Four tables joined to one. The floor reads, writes and syncs as many bytes.",
    ),
)


def _figures(run: Run) -> str:
    body = []
    for one in run.measurements:
        for index, (what, subject, middle, unit, spread, floor, peer) in enumerate(text.rows(one)):
            kind = ' class="more"' if index else ""
            style = ' class="kifa"' if subject == KIFA else ""
            doubt = ' class="doubt"' if spread.endswith("!") else ""
            body.append(
                f'<tr{kind}><td class="wide">{_marked(what)}</td><td{style}>{escape(subject)}</td>'
                f'<td class="n">{middle}</td><td>{escape(unit)}</td><td{doubt}>{escape(spread)}</td>'
                f'<td class="n">{floor}</td><td class="n">{escape(peer)}</td></tr>'
            )
    return f"<h2>All figures</h2>{_table(text.HEADINGS, body)}"


def _latencies(run: Run) -> str:
    rows = list(text.latency_rows(run.measurements))
    if not rows:
        return ""
    body = [
        f'<tr{"" if what else " class=more"}><td class="wide">{_marked(what)}</td><td>{escape(subject)}</td>'
        + "".join(f'<td class="n">{value}</td>' for value in values)
        + "</tr>"
        for what, subject, *values in rows
    ]
    return f"<h2>Latencies</h2>{_table(text.LATENCY_HEADINGS, body)}"


def _table(headings: Sequence[str], body: Sequence[str]) -> str:
    head = "".join(
        f"<th{' class=n' if heading in RIGHT else ''}>{escape(heading)}</th>"
        for heading in headings
    )
    rows = "".join(body)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _marked(line: str) -> str:
    """Return text in which what stands in backquotes is code."""
    parts = line.split("`")
    return "".join(
        f"<code>{escape(part)}</code>" if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )
