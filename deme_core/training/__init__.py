"""Finetuning: losses, the loop, and its exact resume."""
