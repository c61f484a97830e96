"""Hold the installed packages against the database of known vulnerabilities; where it cannot be reached, list them.

It is read, and ends nothing: what is found out tomorrow is no fault of today's commit, and torch and torchaudio cannot
move alone. The database is OSV: nothing is asked of the package index, often a mirror that knows of no vulnerability.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import distributions

DATABASE = "https://api.osv.dev/v1/vulns/GHSA-462w-v97r-4m45"  # any entry: whether it answers
TIMEOUT_S = 10
AUDIT_S = 300
COMMAND = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--skip-editable", "--format", "json"]


def main() -> None:
    try:
        urllib.request.urlopen(DATABASE, timeout=TIMEOUT_S).close()
        audit = subprocess.run(
            [*COMMAND, "--progress-spinner", "off"], capture_output=True, text=True, timeout=AUDIT_S, check=False
        )
        found = json.loads(audit.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        print(f"dependencies: the database of vulnerabilities was not reached ({error}); to be reviewed by hand:")
        print(" ".join(sorted(f"{each.name}=={each.version}" for each in distributions())))
        return
    report(found)


def report(found: list[dict]) -> None:
    known = [(package, fault) for package in found for fault in package.get("vulns", [])]
    for package, fault in known:
        mended = f"mended in {', '.join(fault['fix_versions'])}" if fault["fix_versions"] else "not mended yet"
        print(f"dependencies: {package['name']} {package['version']}: {fault['id']}, {mended}")
    print(f"dependencies: {len(found)} audited, {len(known)} known vulnerabilities")


if __name__ == "__main__":
    main()
