"""What the attack suite tried and what happened: collected by the tests, written as one table.

Pure but for `save` and the command, which touch `attack-output/`. As a command
(`python -m tests.attack.report FOLDER RUNTIME…`) it joins what each runtime's run saved there into `report.md`, prints
it, and exits 1 if a case failed or has no attempt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path


class Verdict(StrEnum):
    OK = "ok"
    DIFFERS = "differs"
    """Safe, but not as expected; `happened` says why."""
    NOT_TRIED = "not tried"
    """This machine cannot; `happened` says why."""
    FAILED = "FAILED"


CASES = {
    "R1": ("fork bomb", "pids limit; others go on; typed end; killed within 3 s"),
    "R2": ("memory bomb", "killed inside the sandbox only; typed end; server's memory flat"),
    "R3": ("disk fill, by bytes, holes and inodes", "refused inside at the quota; host and log untouched"),
    "R4": ("descriptors, sockets, per-user kernel limits", "contained; the API answers"),
    "R5": ("CPU spin, real-time priority", "limit enforced; real-time refused"),
    "R6": ("output flood", "bounded events, cut is marked, health p95 ≤ 100 ms"),
    "R7": ("hostile bytes in output", "whole in JSON, replaced where not text, neutralised for terminals"),
    "R8": ("nobody reads", "the reader in the sandbox always drains, within a cap"),
    "R9": ("10,000 processes, daemons, zombies", "all reaped, nothing leaks"),
    "R10": ("ignored, trapped and stopped", "killed within 3 s; the environment goes on"),
    "R11": ("huge code, input, arguments, variables", "typed refusal with the limit, no hang"),
    "R12": ("1,000 environments at once", "429 at the quota; others unaffected"),
    "E1": ("engine socket and hints", "none reachable"),
    "E2": ("setuid, file capabilities, sudo", "inert; uploads carry no set-id bits"),
    "E3": ("tracing and reading the guest", "denied"),
    "E4": ("kernel keyring", "EPERM"),
    "E5": ("kernel surface: bpf, io_uring, socket families", "EPERM or EAFNOSUPPORT"),
    "E6": ("mounts, namespaces, chroot, file handles", "EPERM"),
    "E7": ("writing and reading through proc and sys", "read-only or masked"),
    "E8": ("runc escapes replayed", "refused or harmless; doctor tells"),
    "E9": ("malicious images", "nothing outside its root; the server goes on"),
    "E10": ("links, devices, FIFOs and sockets as files", "refused, never followed out, never hung on"),
    "E11": ("host namespaces by API fields", "400 naming the field"),
    "E12": ("clock, host name, reboot, modules", "EPERM"),
    "N1": ("metadata services, however they are spelled", "unreachable, also where everybody may be reached"),
    "N2": ("ways past the proxy: addresses, protocols", "no route"),
    "N3": ("names as a way out", "nothing resolves inside; name servers closed; names of the allowlist only"),
    "N4": ("another name in TLS or Host than was allowed", "denied, nothing sent on"),
    "N5": ("hosts that parsers read differently", "one parser; denied on error"),
    "N6": ("having an injected secret repeated or redirected", "never to others; taken out of what comes back"),
    "N7": ("request smuggling, upgrades", "one reading of each request; upgrades for websockets only"),
    "N8": ("placeholders of others, after their end", "never swapped"),
    "N9": ("headers of its own beside the injected one", "stripped, then set"),
    "N10": ("carrying data out through allowed hosts", "paths, methods and budgets hold; all is told of"),
    "N11": ("the server, its machine, other sandboxes", "refused"),
    "N12": ("slow requests, 10,000 connections", "bounded; others are served"),
    "N13": ("secrets wherever anything is kept", "none found"),
    "N14": ("trust of its own in the sandbox", "only that sandbox; requests are read all the same"),
    "F12": ("hostile front matter of skills", "refused with the reason, told; other skills and the run go on"),
}
"""Case → attack, expected behaviour."""


@dataclass(frozen=True, slots=True)
class Attempt:
    case: str
    tried: str
    happened: str
    verdict: Verdict


@dataclass
class Report:
    """The attempts on one runtime."""

    runtime: str
    engine: str = ""
    attempts: list[Attempt] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"runtime": self.runtime, "engine": self.engine, "attempts": [asdict(each) for each in self.attempts]}
        (folder / f"{self.runtime}.json").write_text(json.dumps(content, ensure_ascii=False, indent=1))

    @classmethod
    def load(cls, file: Path) -> Report:
        content = json.loads(file.read_text())
        attempts = [Attempt(**{**each, "verdict": Verdict(each["verdict"])}) for each in content["attempts"]]
        return cls(content["runtime"], content["engine"], attempts)


class Case:
    """One test's hold on one case. Attempts are recorded as they are made; `conclude` fails if any of them failed."""

    def __init__(self, report: Report, case_id: str) -> None:
        assert case_id in CASES, case_id
        self.id = case_id
        self._report = report
        self._failed: list[str] = []

    @property
    def runtime(self) -> str:
        return self._report.runtime

    def tried(self, what: str, happened: object, *, ok: bool, otherwise: Verdict = Verdict.FAILED) -> None:
        """Records an attempt. What is not `ok` is `otherwise`; a failure is raised at the end of the test."""
        verdict = Verdict.OK if ok else otherwise
        self._report.attempts.append(Attempt(self.id, what, str(happened)[:300], verdict))
        if verdict is Verdict.FAILED:
            self._failed.append(f"{what}: {happened}")

    def differs(self, what: str, happened: object) -> None:
        """Records behaviour that is safe and not what the table expects."""
        self.tried(what, happened, ok=False, otherwise=Verdict.DIFFERS)

    def not_tried(self, what: str, reason: str) -> None:
        """Records what cannot be tried on this machine."""
        self.tried(what, reason, ok=False, otherwise=Verdict.NOT_TRIED)

    def conclude(self) -> None:
        assert not self._failed, f"{self.id} on {self.runtime}:\n" + "\n".join(self._failed)


def verdict_of(report: Report, case_id: str) -> tuple[Verdict, int]:
    """The worst verdict of a case, and how many attempts it had. Without any it failed."""
    verdicts = [each.verdict for each in report.attempts if each.case == case_id]
    order = (Verdict.FAILED, Verdict.DIFFERS, Verdict.NOT_TRIED, Verdict.OK)
    if verdicts and all(each is Verdict.NOT_TRIED for each in verdicts):
        return Verdict.NOT_TRIED, 0
    found = next((each for each in order if each in verdicts), Verdict.FAILED)
    return (Verdict.OK if found is Verdict.NOT_TRIED else found), len(verdicts)


def render(reports: list[Report], missing: Iterable[str] = ()) -> str:
    """The whole report as Markdown: a line for each case, then every attempt. `missing` runtimes were not there."""
    heads = " | ".join(report.runtime for report in reports)
    lines = ["# Attack report", "", *(f"* {report.runtime}: {report.engine}" for report in reports)]
    lines += [*(f"* {runtime}: NOT TRIED, the engine has no such runtime" for runtime in missing), ""]
    lines += [f"| case | attack | expected | {heads} |", "|---|---|---|" + "---|" * len(reports)]
    for case_id, (attack, expected) in CASES.items():
        cells = []
        for report in reports:
            verdict, count = verdict_of(report, case_id)
            cells.append(f"{verdict.value} ({count})")
        lines.append(f"| {case_id} | {attack} | {expected} | {' | '.join(cells)} |")
    for report in reports:
        lines += ["", f"## {report.runtime}", "", "| case | tried | happened | verdict |", "|---|---|---|---|"]
        for each in sorted(report.attempts, key=lambda attempt: list(CASES).index(attempt.case)):
            lines.append(f"| {each.case} | {_cell(each.tried)} | {_cell(each.happened)} | {each.verdict.value} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    shown = "".join(char if char.isprintable() else " " for char in text)
    return shown.replace("|", "\\|").strip() or "nothing"


def main(folder: Path, wanted: list[str]) -> int:
    """Joins, writes, prints. 0 if every case held on every runtime that is there."""
    reports = [Report.load(file) for file in sorted(folder.glob("*.json"))]
    missing = [runtime for runtime in wanted if runtime not in {report.runtime for report in reports}]
    text = render(reports, missing)
    (folder / "report.md").write_text(text)
    print(text)
    failed = False
    for report in reports:
        totals = {verdict: sum(each.verdict is verdict for each in report.attempts) for verdict in Verdict}
        print(f"{report.runtime}: " + ", ".join(f"{count} {verdict.value}" for verdict, count in totals.items()))
        for case_id in CASES:
            if not any(each.case == case_id for each in report.attempts):
                print(f"{report.runtime}: {case_id} has NO attempt")
                failed = True
        for each in report.attempts:
            if each.verdict is Verdict.NOT_TRIED:
                print(f"{report.runtime}: {each.case} NOT TRIED: {each.tried}: {each.happened}")
            if each.verdict is Verdict.FAILED:
                print(f"{report.runtime}: {each.case} FAILED: {each.tried}: {each.happened}")
                failed = True
    for runtime in missing:
        print(f"{runtime} NOT TRIED: the engine has no such runtime")
    print(f"report: {folder / 'report.md'}")
    return 1 if failed or not reports else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
