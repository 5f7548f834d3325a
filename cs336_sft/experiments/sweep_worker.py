"""A process that makes runs of a sweep one after another: ``python -m cs336_sft.experiments.sweep_worker``.

Each line of stdin is a job, a JSON object with ``settings``, ``run_dir`` and ``base_cache``; each job is answered by
one line on stdout, ``{"status": "finished"}`` or another status with ``error``. All else goes to stderr. It ends when
stdin does. A process makes many runs because loading PyTorch and CUDA can take longer than a run of the tiny model.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from cs336_sft.errors import CourseError
from cs336_sft.experiments.settings import RunSettings, make_settings

Answer = dict[str, Any]


def make_run(settings: RunSettings, run_dir: str | Path, base_cache: str | Path | None) -> Answer:
    """Make one run; an error becomes an answer, so that it does not stop the others."""
    from cs336_sft.experiments.run import free_memory, run_sft

    try:
        outcome = run_sft(settings, run_dir, base_cache=base_cache)
        return {"status": "interrupted" if outcome.result.interrupted else "finished", "overlap": outcome.overlap}
    except CourseError as error:
        return {"status": "failed", "error": str(error)}
    except Exception as error:  # a run may fail in any library below; the sweep reports it and goes on
        traceback.print_exc()
        return {"status": "failed", "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    finally:
        free_memory()


def main() -> None:
    # What libraries print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from cs336_sft.cli.common import quiet_libraries

    quiet_libraries()
    for line in sys.stdin:
        job = json.loads(line)
        settings = make_settings(job["settings"])
        answers.write(json.dumps(make_run(settings, job["run_dir"], job["base_cache"])) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
