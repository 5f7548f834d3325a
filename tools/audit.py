"""Known vulnerabilities among the installed packages; without the database at least what is installed and pinned.

python tools/audit.py   # asks PyPI's database through pip-audit; `make audit` installs that

Exit status: 0 nothing known, 1 vulnerabilities found, 2 the database gave no answer. pip-audit itself ends with a
traceback where it can't reach the database, and with "No known vulnerabilities found" where the database (a mirror,
say) knows none of the packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pinned_versions(path: Path) -> dict[str, str]:
    """Package -> version of a constraints file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split(";")[0].strip().split("==") for line in lines if "==" in line)


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions_table(pinned: dict[str, str]) -> list[str]:
    """What can be said without a database: the pinned versions, and where the installed ones differ."""
    lines = [f"{len(pinned)} pinned packages (constraints.txt):"]
    for package, version in sorted(pinned.items()):
        found = installed_version(package)
        note = "not installed" if found is None else "" if found.split("+")[0] == version else f"installed: {found}"
        lines.append(f"  {package:<24} {version:<12} {note}".rstrip())
    return lines


def ask() -> tuple[list[dict] | None, str]:
    """pip-audit's report on each package; None, and why, where there is none."""
    if not find_spec("pip_audit"):
        return None, "pip-audit is not installed"
    command = ["-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    try:
        return json.loads(done.stdout)["dependencies"], ""
    except (ValueError, KeyError):
        said = done.stderr.strip().splitlines() or [f"pip-audit ended with status {done.returncode}"]
        return None, said[-1]


def verdict(packages: list[dict] | None, reason: str) -> tuple[list[str], int]:
    """What to say of a report, and the exit status."""
    remedy = "Remedy: run `make audit` again where PyPI can be reached. The tests do not need it."
    if packages is None:
        return [f"NOT AUDITED: the database of vulnerabilities gave no answer ({reason}).", remedy], 2
    skipped = [package for package in packages if "skip_reason" in package]
    checked = len(packages) - len(skipped)
    if checked == 0:
        return [f"NOT AUDITED: the database knows none of the {len(packages)} installed packages.", remedy], 2
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, "
        f"mended in {', '.join(found['fix_versions']) or 'no version'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    status = 1 if lines else 0
    lines += [f"not checked: {package['skip_reason']}" for package in skipped]
    return [*lines, f"{checked} packages checked, " + ("see above" if status else "no known vulnerability")], status


def main() -> int:
    lines, status = verdict(*ask())
    if status == 2:
        lines = [*versions_table(pinned_versions(ROOT / "constraints.txt")), *lines]
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
