"""Figures in, a Markdown table out: medians of the rounds, and how many times better than a peer they are."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.crowd import CouldNot
from benchmarks.scenarios import Figure, Figures, Scenario
from benchmarks.servers import Server

Outcomes = Mapping[tuple[Scenario, Server], Sequence[Figures | CouldNot]]


def table(outcomes: Outcomes, servers: Sequence[Server], baseline: Server) -> str:
    lines = [
        "| |" + "".join(f" {server.name} |" for server in servers),
        "|---|" + "---|" * len(servers),
    ]
    for scenario in dict.fromkeys(scenario for scenario, _ in outcomes):
        figures = dict.fromkeys(
            figure
            for (of, _), rounds in outcomes.items()
            if of is scenario
            for outcome in rounds
            if not isinstance(outcome, CouldNot)
            for figure in outcome
        )
        for number, figure in enumerate(figures or [None]):
            row = f"| {scenario.name}: {figure.name} |" if figure else f"| {scenario.name} |"
            for server in servers:
                row += f" {_cell(outcomes, scenario, server, baseline, figure, is_first=number == 0)} |"
            lines.append(row)
    return "\n".join(lines)


def _cell(
    outcomes: Outcomes,
    scenario: Scenario,
    server: Server,
    baseline: Server,
    figure: Figure | None,
    *,
    is_first: bool,
) -> str:
    rounds = outcomes.get((scenario, server), ())
    for outcome in rounds:
        if isinstance(outcome, CouldNot):
            return str(outcome) if is_first else ""
    if not rounds or figure is None:
        return ""
    value = _median(rounds, figure)
    base = outcomes.get((scenario, baseline), ())
    if server is baseline or not figure.is_compared or not base or any(isinstance(of, CouldNot) for of in base):
        return figure.show(value)
    compared = _median(base, figure)
    better = value / compared if figure.is_more_better else compared / value if value else float("inf")
    return f"{figure.show(value)} ({_times(better)})"


def _median(rounds: Sequence[Figures | CouldNot], figure: Figure) -> float:
    return statistics.median(outcome[figure] for outcome in rounds if not isinstance(outcome, CouldNot))


def _times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×" if ratio >= 1 else f"{ratio:.1g}×"
