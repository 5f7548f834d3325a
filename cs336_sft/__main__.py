"""``python -m cs336_sft``: the same as the command ``cs336-sft``."""

from __future__ import annotations

from cs336_sft.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
