"""Expert iteration: sample, grade, select, train, again."""
