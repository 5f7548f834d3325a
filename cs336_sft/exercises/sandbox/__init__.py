"""The process that runs a learner's file."""
