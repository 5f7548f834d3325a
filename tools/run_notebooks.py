"""Run the notebooks in order, as `make course` and `make notebooks` do.

    python tools/run_notebooks.py --output build/notebooks     # executed copies; the sources stay as they are
    python tools/run_notebooks.py --inplace                    # store the outputs in the sources (for authors)
    python tools/run_notebooks.py --inplace 02 04              # only the notebooks whose names begin so

The kernel is the Python that runs this script, whatever kernels are registered on the machine. Exit status: 0 if every
notebook ran, 1 if one failed (it is kept, with the error, and the rest is not run), 2 for a mistake in the call.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CAPTION = re.compile(r"\*(Figure[^*]+)\*")


class ThisPython(KernelSpecManager):
    """Answers every request for a kernel with the running interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"],
            display_name="Python 3",
            language="python",
        )


class ProgressClient(NotebookClient):
    """A notebook client with one progress line: cells done, and the beginning of the one that runs."""

    def __init__(self, *args, bar: tqdm, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.bar = bar

    async def async_execute_cell(self, cell: NotebookNode, cell_index: int, **kwargs) -> NotebookNode:
        if cell.cell_type == "code":
            first = next((line for line in cell.source.splitlines() if line.strip()), "")
            self.bar.set_postfix_str(first[:48], refresh=True)
        try:
            return await super().async_execute_cell(cell, cell_index, **kwargs)
        finally:
            self.bar.update(cell.cell_type == "code")


def execute(path: Path, seconds: float, *, quiet: bool = False) -> tuple[NotebookNode, str]:
    """Run one notebook in its own folder.

    Args:
        seconds: time limit for the whole notebook.

    Returns:
        The notebook with its outputs, and an error in one line (empty if it ran to the end).
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())

    async def run() -> None:
        with tqdm(total=cells, desc=path.name, unit="cell", disable=quiet, leave=True) as bar:
            client = ProgressClient(
                notebook,
                bar=bar,
                km=manager,
                startup_timeout=120,
                resources={"metadata": {"path": str(path.parent)}},
            )
            try:
                await asyncio.wait_for(client.async_execute(), timeout=seconds)
            finally:
                if manager.has_kernel:  # a time-out or Ctrl-C leaves it running
                    await manager.shutdown_kernel(now=True)

    error, started = "", time.monotonic()
    try:
        asyncio.run(run())
    except CellExecutionError as problem:
        error = f"{problem.ename}: {problem.evalue}"
    except (TimeoutError, DeadKernelError):
        # nbclient reports a cell that was cancelled as a dead kernel: the clock tells the two apart.
        late = time.monotonic() - started >= seconds
        error = f"longer than the limit of {seconds:.0f} s" if late else "the kernel died (out of memory?)"
    return notebook, error


def clean(notebook: NotebookNode) -> NotebookNode:
    """Remove what differs between machines and runs but tells a reader nothing; in place.

    Cell timings, progress bars, the state of widgets (a widget's text stand-in stays), and whatever the metadata says
    of the machine's Python. Each picture gets the caption below it as its alternative text.
    """
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in notebook.cells:
        keep = {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}
        cell.metadata = NotebookNode(keep)
        if cell.cell_type != "code":
            continue
        cell.outputs = merge_streams([output for output in cell.outputs if not is_progress_widget(output)])
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET_VIEW, None)
    caption = ""
    for cell in reversed(notebook.cells):
        if cell.cell_type == "markdown" and (found := CAPTION.search(cell.source)):
            caption = " ".join(found[1].replace("`", "").split())
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = NotebookNode({"alt": caption} if caption else {})
                caption = ""  # a caption is of one picture
    return notebook


def is_progress_widget(output: NotebookNode) -> bool:
    """Whether an output is tqdm's widget: its text stand-in shows the bar as it began, at 0 %."""
    data = output.get("data", {})
    return WIDGET_VIEW in data and "[00:00<?" in str(data.get("text/plain", ""))


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of the same stream: where a kernel flushes is a matter of timing.

    A carriage return means that a progress bar drew its line anew: only the last state of each line is kept.
    """
    merged: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and merged and merged[-1].get("name") == output.name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            lines = output.text.split("\n")
            output.text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
    return merged


def choose(folder: Path, prefixes: list[str]) -> list[Path]:
    """The notebooks of a folder in order; only those whose names begin with one of the prefixes, if there are any."""
    paths = sorted(folder.glob("*.ipynb"))
    return [p for p in paths if not prefixes or p.name.startswith(tuple(prefixes))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the notebooks in order.")
    parser.add_argument("prefix", nargs="*", help="only notebooks whose names begin so (02, 04_first)")
    parser.add_argument("--folder", type=Path, default=NOTEBOOKS, help="where the notebooks are")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, help="folder for the executed copies")
    where.add_argument("--inplace", action="store_true", help="store the outputs in the notebooks themselves")
    parser.add_argument("--timeout", type=float, default=1800, help="limit for each notebook, in seconds (1800)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)

    paths = choose(args.folder, args.prefix)
    if not paths:
        print(f"no notebook in {args.folder} matches {' '.join(args.prefix) or '*.ipynb'}", file=sys.stderr)
        return 2
    os.environ.setdefault("CS336_PROFILE", "tiny")
    os.environ.setdefault("CS336_PREDICT", "skip")  # the author's own predictions are nobody's business
    # A debugger's notice about frozen modules would be stored as an output.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

    rows, failed = [], ""
    for path in paths:
        started = time.perf_counter()
        notebook, failed = execute(path, args.timeout, quiet=args.quiet)
        rows.append((path.name, time.perf_counter() - started, "failed" if failed else "ok"))
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, args.output / path.name)
        elif not failed:
            nbformat.write(clean(notebook), path)
        if failed:
            break

    print(f"\n{'notebook':<32} {'seconds':>8}  result   (profile {os.environ['CS336_PROFILE']})")
    for name, seconds, result in rows:
        print(f"{name:<32} {seconds:>8.1f}  {result}")
    print(f"{'total':<32} {sum(row[1] for row in rows):>8.1f}")
    if failed:
        print(f"{rows[-1][0]} stopped with {failed}", file=sys.stderr)
        return 1
    if args.output:
        print(f"executed copies: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
