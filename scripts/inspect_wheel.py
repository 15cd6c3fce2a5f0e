"""Check that a built wheel holds what its users need and nothing else."""

import sys
import zipfile
from email.parser import Parser
from pathlib import Path


def problems(wheel: Path) -> list[str]:
    """Return one sentence for each thing that is missing from `wheel` or has no place in it."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())

    wanted = {"stormproof/__init__.py", "stormproof/py.typed"}
    wanted |= {f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"}
    found = [f"{name} is missing" for name in sorted(wanted - names)]
    strangers = {name.split("/")[0] for name in names} - {"stormproof", info}
    found += [f"{name} has no place in the wheel" for name in sorted(strangers)]

    fields = {
        "License-Expression": "MIT",
        "Requires-Python": ">=3.11",
        "Description-Content-Type": "text/markdown",
    }
    for field, value in fields.items():
        if metadata[field] != value:
            found.append(f"{field} is {metadata[field]!r}, not {value!r}")
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    if sorted(line.split(">")[0] for line in needed) != ["fastapi", "uvicorn"]:
        found.append(f"a plain install needs {needed}, not fastapi and uvicorn alone")
    return found


if __name__ == "__main__":
    findings = problems(Path(sys.argv[1]))
    sys.stderr.writelines(f"wheel: {finding}\n" for finding in findings)
    sys.exit(1 if findings else 0)
