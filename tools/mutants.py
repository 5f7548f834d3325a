"""Make mutants of a source with cosmic-ray: one operator, number or condition changed in each."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def mutants_of(text: str) -> Iterator[tuple[str, str]]:
    """(operator, changed text) of every mutant whose code differs, each once."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    seen = {ast.dump(ast.parse(text))}
    for name in sorted(plugins.operator_names()):
        operator_class = plugins.get_operator(name)
        if operator_class.arguments():  # such as names of variables: nothing to choose them by
            continue
        occurrence = 0
        while (mutated := mutate_code(text, operator_class(), occurrence)) is not None:
            occurrence += 1
            try:
                code = ast.dump(ast.parse(mutated))
            except SyntaxError:
                continue
            if code not in seen and not _annotation_only(text, mutated):
                seen.add(code)
                yield name, mutated


def changed_line(a: str, b: str) -> tuple[str, str]:
    for before, after in zip(a.splitlines(), b.splitlines(), strict=False):
        if before != after:
            return before.strip(), after.strip()
    return "(lines)", "(lines)"


def _annotation_only(a: str, b: str) -> bool:
    """Type hints are not run (``from __future__ import annotations``)."""

    def bare(text: str) -> str:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.returns = None
            if isinstance(node, ast.arg):
                node.annotation = None
        return ast.dump(tree)

    return bare(a) == bare(b)
