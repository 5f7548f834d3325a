"""Copy the notebooks without their outputs into a folder of the learner's; what is there already stays.

python tools/learner_copies.py my_notebooks   # as `make lab` does
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def copy_notebooks(target: Path) -> list[Path]:
    """Write the copies that are missing and return their paths."""
    made = []
    for source in sorted(NOTEBOOKS.rglob("*.ipynb")):
        copy = target / source.relative_to(NOTEBOOKS)
        if copy.exists() or ".ipynb_checkpoints" in source.parts:
            continue
        notebook = nbformat.read(source, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        notebook.metadata.pop("widgets", None)
        copy.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, copy)
        made.append(copy)
    return made


if __name__ == "__main__":
    for path in copy_notebooks(Path(sys.argv[1])):
        print(f"new: {path}")
