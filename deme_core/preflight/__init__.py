"""What is told and refused before a run: params, paths, costs."""
