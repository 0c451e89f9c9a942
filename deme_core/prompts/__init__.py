"""Prompt sets: a name in the table -> the texts that a text-to-image model is measured on."""
