"""The process that runs a learner's file, with limits on time, memory and output.

``runner`` is the checker's side and the place to begin; ``child`` is the process with the learner's code; ``perform``
makes one call and observes it; ``values`` writes what came back as JSON, so that nothing of the learner's is unpickled.
"""
