"""python .ci/audit.py PIP_AUDIT: known weaknesses of the versions in requirements.lock, as far as the registry tells.

Exit code 1 where a pinned version has one, each on a line. What could not be looked up is counted, never passed over.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"


def main(pip_audit: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["-r", LOCK, "--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json", "-o", report]
        done = subprocess.run([pip_audit, *options], capture_output=True, text=True)
        if not report.exists():  # it writes one unless it fails itself
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"dependency audit: not done, {reason}")
            return 0
        packages = json.loads(report.read_text())["dependencies"]
    found = [(each["name"], each["version"], weakness) for each in packages for weakness in each.get("vulns", ())]
    for name, version, weakness in found:
        fixed = ", ".join(weakness["fix_versions"]) or "no version yet"
        print(f"dependency audit: {name} {version}: {weakness['id']}, fixed in {fixed}")
    skipped = sum("skip_reason" in each for each in packages)
    print(f"dependency audit: {len(packages)} packages, {skipped} unknown to the registry, {len(found)} weaknesses")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
