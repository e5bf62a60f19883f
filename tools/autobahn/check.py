"""Reads Autobahn's report: `check.py REPORT DOCUMENT ALL WRITE`. Fails when a case failed or, with ALL, when another number
of cases ran than the document says. With WRITE the document's summary is written anew."""
import collections, json, re, sys

NAMES = {
    "1": "framing", "2": "pings and pongs", "3": "reserved bits", "4": "opcodes", "5": "fragmentation", "6": "UTF-8",
    "7": "close handshake", "9": "limits and performance", "10": "auto-fragmentation",
}
# what Autobahn calls a case that passed, or one that only shows behaviour
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
BEGIN, END = "<!-- summary: scripts/autobahn --write -->", "<!-- end of summary -->"


def table(report):
    rows = collections.defaultdict(collections.Counter)
    for case, result in report.items():
        rows[case.split(".")[0]][result["behavior"]] += 1
    lines = ["| cases | about | run | OK | non-strict | informational | failed |", "|---|---|---|---|---|---|---|"]
    total = collections.Counter()
    for number in sorted(rows, key=int):
        total += rows[number]
        lines.append(line(f"{number}.*", NAMES.get(number, ""), rows[number]))
    lines.append(line("all", "", total))
    return "\n".join(lines)


def line(cases, about, counts):
    failed = sum(count for behaviour, count in counts.items() if behaviour not in GOOD)
    cells = [cases, about, sum(counts.values()), counts["OK"], counts["NON-STRICT"], counts["INFORMATIONAL"], failed]
    return "| " + " | ".join(map(str, cells)) + " |"


def main(report, document, everything, write):
    (report,) = json.load(open(report)).values()
    bad = {case: result for case, result in report.items()
           if result["behavior"] not in GOOD or result["behaviorClose"] not in GOOD}
    shown = table(report)
    print(shown)
    for case, result in sorted(report.items()):
        if result["behavior"] != "OK" or result["behaviorClose"] != "OK":
            print(f"{case}: {result['behavior']}, close {result['behaviorClose']}")
    if bad or not report:
        sys.exit(f"scripts/autobahn: {len(bad)} of {len(report)} cases failed: {', '.join(sorted(bad))}")
    text = open(document).read()
    if write == "1":
        before, rest = text.split(BEGIN)
        open(document, "w").write(f"{before}{BEGIN}\n{shown}\n{END}{rest.split(END)[1]}")
    elif everything == "1":
        documented = re.search(r"^\| all \|[^|]*\| (\d+) \|", text, re.MULTILINE)
        if not documented or int(documented[1]) != len(report):
            sys.exit(f"scripts/autobahn: {len(report)} cases ran, {document} says otherwise; run scripts/autobahn --write")


main(*sys.argv[1:])
