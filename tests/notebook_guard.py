"""What a stored notebook must show: run from top to bottom, without errors, with the outputs that its code makes.

nbval runs the notebooks, but it skips cells without an execution count and ignores pictures; this looks at the file.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

from nbformat import NotebookNode

# A traceback or a printed path of the author's machine does not belong into a course.
MACHINE_PATH = re.compile(
    r"(?:/home/|/root/|/work/|/tmp/|/Users/|/mnt/|/opt/|/private/var/|[A-Z]:\\\\?Users)[\w.\\/-]*"
)
_MAGIC = re.compile(r"^\s*[%!?]|\?\s*$")
_SHOWING = {"print", "display", "print_table"}


def complaints(notebook: NotebookNode) -> Iterator[str]:
    """One line for each thing that is wrong; nothing for a notebook in order."""
    expected = 1
    draws = False
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if not code_cells:
        yield "no code cell"
    for cell in code_cells:
        where = f"cell {expected} ({cell.source.strip().splitlines()[0][:40]!r})"
        if cell.execution_count != expected:
            yield f"{where}: execution count {cell.execution_count}, expected {expected}"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{where}: error {output.get('ename')}"
            if match := MACHINE_PATH.search(_text(output)):
                yield f"{where}: path of a machine in the output: {match.group()}"
        if must_print(cell.source) and not cell.outputs:
            yield f"{where}: its code shows something, but no output is stored"
        draws = draws or "plt." in cell.source or "plot_" in cell.source
        if shows_figure(cell.source) and not _has_picture(cell):
            yield f"{where}: it draws a figure, but no picture is stored"
        expected += 1
    if draws and not any(_has_picture(cell) for cell in code_cells):
        yield "it uses plots, but no picture is stored"


def must_print(source: str) -> bool:
    """Whether running the cell is bound to give an output: it prints at its top level, or ends in a value.

    A last line that ends in ``;`` is silenced, a call may return None, so only what is sure counts: print, display,
    names, attributes, literals, comparisons, indexing and arithmetic.

    >>> must_print("x = 1\\nprint(x)"), must_print("x = 1"), must_print("x"), must_print("x;"), must_print("f(x)")
    (True, False, True, False, False)
    """
    body = _body(source)
    if any(_shown_call(statement) for statement in body):
        return True
    if not body or not isinstance(body[-1], ast.Expr) or source.rstrip().endswith(";"):
        return False
    return not isinstance(body[-1].value, ast.Call | ast.Await | ast.Yield | ast.Constant) or (
        isinstance(body[-1].value, ast.Constant) and body[-1].value.value is not None
    )


def shows_figure(source: str) -> bool:
    """Whether the cell calls ``plt.show()``, or ends in a call of one of the course's plotting functions.

    >>> shows_figure("plt.plot(x)\\nplt.show()"), shows_figure("plot_training(runs)"), shows_figure("fig = plot_x()")
    (True, True, False)
    """
    body = _body(source)
    for statement in body:
        if isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("plt.show("):
            return True
    last = body[-1] if body and not source.rstrip().endswith(";") else None
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call):
        return ast.unparse(last.value.func).rsplit(".", 1)[-1].startswith("plot_")
    return False


def _body(source: str) -> list[ast.stmt]:
    if source.lstrip().startswith("%%"):
        return []
    plain = "\n".join("pass" if _MAGIC.search(line) else line for line in source.splitlines())
    try:
        return ast.parse(plain).body
    except SyntaxError:
        return []


def _shown_call(statement: ast.stmt) -> bool:
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return False
    function = statement.value.func
    name = (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )
    return name in _SHOWING


def _text(output: NotebookNode) -> str:
    """Everything readable in an output; pictures left out."""
    data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/png")}
    return "\n".join([str(output.get("text", "")), json.dumps(data), "\n".join(output.get("traceback", []))])


def _has_picture(cell: NotebookNode) -> bool:
    return any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {}))
