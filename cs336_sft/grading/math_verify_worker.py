"""The subprocess of `math_verify`: a script with its memory limit in bytes as argument, one JSON line in, one out."""

from __future__ import annotations

import json
import sys


def main(memory_bytes: int) -> None:
    import resource

    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            # Time limits are the parent's business: it kills this process.
            truth, answer = (parse(f"\\boxed{{{request[key]}}}", parsing_timeout=None) for key in ("truth", "answer"))
            equal = bool(truth and answer and verify(truth, answer, timeout_seconds=None))
            reply = {"equal": equal, "reason": "compared"}
            if not truth or not answer:
                reply["reason"] = f"math-verify finds no expression in the {'ground truth' if answer else 'answer'}"
        except MemoryError:
            reply = {"equal": False, "reason": "out of memory"}
        except Exception as error:  # model text can break a parser in any way: not equal
            reply = {"equal": False, "reason": f"math-verify failed: {type(error).__name__}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
