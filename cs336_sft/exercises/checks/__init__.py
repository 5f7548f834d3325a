"""One module an exercise, each with ``check(session) -> Failure | None``: cases, reference and known slips.

They run in the checker's process. What they call of the learner's goes through the session, to another process.
"""
