"""The figures of the paper from a run's own models: why a merge works, or why not. One figure a file."""
