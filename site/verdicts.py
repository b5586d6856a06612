"""Five verdicts of the ledger for the README: `python site/verdicts.py [--write]`."""

import argparse
from pathlib import Path

from marked import replaced

from compsamp.lab.claims import claims_ledger, marked_verdict

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- verdicts: written by site/verdicts.py -->", "<!-- end of the verdicts -->"
CHOSEN = (  # the ones a reader would not have guessed
    "RVV over NVV at 50",
    "CVV with v held, λ tuned, over RVV at 50",
    "2M with Restart below 2M at 20",
    "Heun with Restart below Heun at 35 (the paper",
    "premise: from 20 evaluations on, noise",
)


def table() -> str:
    "The verdicts as a Markdown table."
    rows, _ = claims_ledger()
    lines = ["| claim | published | measured here | verdict |", "|---|---|---|---|"]
    for name in CHOSEN:
        row = next(row for row in rows if row["claim"].startswith(name))
        said = row["published"] or "no figure"
        claim = f"{row['paper']}: [{row['claim']}](nbs/{row['link']})"
        lines.append(f"| {claim} | {said} | {row['measured']} | {marked_verdict(row)} |")
    return "\n".join(lines) + "\n"


def rewritten(text: str) -> str:
    "README.md with the present table."
    return replaced(text, BEGIN, END, f"\n{table()}\n")


def main():
    "The command."
    parser = argparse.ArgumentParser(description="Five verdicts of the ledger.")
    parser.add_argument("--write", action="store_true", help="put them in README.md")
    if parser.parse_args().write:
        path = ROOT / "README.md"
        path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
