"""What Lighthouse says of the dashboard of a server under load. Prints the scores, and what costs points.

python -m benchmarks.lighthouse [--rate 1000] [--form desktop]
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.dashboard import load, prepare
from changefeed.postgres.embedded import EmbeddedPostgres
from tests.browser import ROOT
from tests.server_process import ServerProcess

LIGHTHOUSE = ROOT / "benchmarks" / "lighthouse-cli" / "node_modules" / "lighthouse" / "cli" / "index.js"
GOALS = {"performance": 95, "accessibility": 100, "best-practices": 100}
WARM_SECONDS = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1_000, help="changes a second")
    parser.add_argument(
        "--form", choices=("desktop", "mobile"), default="desktop", help="whose screen, CPU and network"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="feed-", dir="/tmp"))
    postgresql = EmbeddedPostgres(folder)
    postgresql.start()
    try:
        prepare(postgresql.conninfo)
        flags = ("--port", "0", "--database-url", postgresql.conninfo)
        with ServerProcess(folder.parent, *flags) as server, load(postgresql.conninfo, options.rate):
            time.sleep(WARM_SECONDS)
            report(run(f"http://127.0.0.1:{server.port()}/", options.form, folder / "report.json"))
    finally:
        postgresql.stop("immediate")
        shutil.rmtree(folder)


def run(url: str, form: str, into: Path) -> dict[str, Any]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
    command = ["node", str(LIGHTHOUSE), url, "--quiet", "--output=json", f"--output-path={into}"]
    command += [f"--only-categories={','.join(GOALS)}", "--no-enable-error-reporting"]
    command += ["--chrome-flags=--headless=new --no-sandbox --disable-gpu"]
    command += ["--preset=desktop"] if form == "desktop" else []
    subprocess.run(command, env={**os.environ, "CHROME_PATH": chromium}, check=True)
    found: dict[str, Any] = json.loads(into.read_text("utf-8"))
    return found


def report(found: dict[str, Any]) -> None:
    for name, goal in GOALS.items():
        category = found["categories"][name]
        print(f"{name}: {100 * (category['score'] or 0):.0f} (goal: {goal})")
        for of in category["auditRefs"]:
            audit = found["audits"][of["id"]]
            if of["weight"] and audit["score"] is not None and audit["score"] < 1:
                value = audit.get("displayValue", "")
                print(f"  {audit['title']}: {100 * audit['score']:.0f} of 100, weight {of['weight']} {value}")


if __name__ == "__main__":
    main()
